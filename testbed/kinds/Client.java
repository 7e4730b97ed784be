// The official Java client as it is told to: a job on each line of stdin, its answer on a line of stdout. The same jobs
// as client.py takes, and transactions. Knows no kind and judges nothing.
//
//     java -cp "lib/*" Client.java pulsar://127.0.0.1:6650 FOLDER     (FOLDER: keys and large payloads)

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.google.protobuf.SourceContext;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.apache.pulsar.client.api.BatcherBuilder;
import org.apache.pulsar.client.api.CompressionType;
import org.apache.pulsar.client.api.Consumer;
import org.apache.pulsar.client.api.CryptoKeyReader;
import org.apache.pulsar.client.api.Message;
import org.apache.pulsar.client.api.MessageId;
import org.apache.pulsar.client.api.MessageIdAdv;
import org.apache.pulsar.client.api.Producer;
import org.apache.pulsar.client.api.ProducerBuilder;
import org.apache.pulsar.client.api.PulsarClient;
import org.apache.pulsar.client.api.Reader;
import org.apache.pulsar.client.api.ReaderBuilder;
import org.apache.pulsar.client.api.Schema;
import org.apache.pulsar.client.api.SizeUnit;
import org.apache.pulsar.client.api.SubscriptionInitialPosition;
import org.apache.pulsar.client.api.SubscriptionType;
import org.apache.pulsar.client.api.TypedMessageBuilder;
import org.apache.pulsar.client.api.schema.GenericObject;
import org.apache.pulsar.client.api.schema.GenericRecordBuilder;
import org.apache.pulsar.client.api.schema.GenericSchema;
import org.apache.pulsar.client.api.transaction.Transaction;
import org.apache.pulsar.client.impl.DefaultCryptoKeyReader;
import org.apache.pulsar.common.api.EncryptionContext;
import org.apache.pulsar.common.schema.KeyValue;
import org.apache.pulsar.common.schema.KeyValueEncodingType;
import org.apache.pulsar.common.schema.SchemaInfo;
import org.apache.pulsar.common.schema.SchemaType;

public class Client {
    static final int AT_ONCE = 6;
    static final int PATIENCE_SECONDS = 20;
    static final String KEY_NAME = "kinds";
    static final ObjectMapper JSON = new ObjectMapper();

    final String url;
    final Path folder;
    final PulsarClient client;
    final CryptoKeyReader keys;
    PulsarClient transactional;

    Client(String url, Path folder) throws Exception {
        this.url = url;
        this.folder = folder;
        client = PulsarClient.builder().serviceUrl(url).operationTimeout(30, TimeUnit.SECONDS)
                .memoryLimit(256, SizeUnit.MEGA_BYTES).build();
        keys = DefaultCryptoKeyReader.builder().publicKey(KEY_NAME, "file://" + folder.resolve("public.pem"))
                .privateKey(KEY_NAME, "file://" + folder.resolve("private.pem")).build();
    }

    /** Only where it is asked for: not every broker has transactions. */
    synchronized PulsarClient transactional() throws Exception {
        if (transactional == null) {
            transactional = PulsarClient.builder().serviceUrl(url).enableTransaction(true).build();
        }
        return transactional;
    }

    /** Writes the messages in their order; then the transactions end as the job says. */
    ObjectNode produce(JsonNode job) throws Exception {
        JsonNode outcome = job.path("outcome");
        PulsarClient by = outcome.isEmpty() ? client : transactional();
        JsonNode how = job.get("producer");
        JsonNode declared = how.path("schema");
        List<JsonNode> schemas = new ArrayList<>();
        (declared.isArray() ? declared : JSON.createArrayNode().add(declared)).forEach(schemas::add);
        List<Producer<Object>> producers = new ArrayList<>();
        for (JsonNode schema : schemas) {
            producers.add(producer(by, job.get("topic").asText(), schema, how));
        }
        Map<String, Transaction> transactions = new LinkedHashMap<>();
        List<CompletableFuture<MessageId>> sent = new ArrayList<>();
        Producer<Object> last = producers.get(0);
        for (JsonNode message : job.get("messages")) {
            int which = message.path("schema").asInt(0);
            if (producers.get(which) != last) {
                last.flush();
                last = producers.get(which);
            }
            Transaction transaction = null;
            if (message.hasNonNull("txn")) {
                String name = message.get("txn").asText();
                if (!transactions.containsKey(name)) {
                    transactions.put(name, by.newTransaction().withTransactionTimeout(1, TimeUnit.MINUTES).build().get());
                }
                transaction = transactions.get(name);
            }
            sent.add(dressed(last, schemas.get(which), message, transaction).sendAsync());
            if (job.has("pause_ms")) {
                last.flush();
                Thread.sleep(job.get("pause_ms").asLong());
            }
        }
        last.flush();
        for (CompletableFuture<MessageId> each : sent) {
            each.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
        }
        for (Map.Entry<String, Transaction> each : transactions.entrySet()) {
            boolean commits = outcome.get(each.getKey()).asText().equals("commit");
            (commits ? each.getValue().commit() : each.getValue().abort()).get(PATIENCE_SECONDS, TimeUnit.SECONDS);
        }
        for (Producer<Object> each : producers) {
            each.close();
        }
        return JSON.createObjectNode().put("sent", sent.size());
    }

    Producer<Object> producer(PulsarClient by, String topic, JsonNode schema, JsonNode how) throws Exception {
        ProducerBuilder<Object> builder = by.newProducer(schemaOf(schema)).topic(topic)
                .compressionType(CompressionType.valueOf(how.path("compression").asText("NONE")))
                .enableChunking(how.path("chunking").asBoolean()).sendTimeout(0, TimeUnit.SECONDS);
        int batch = how.path("batch").asInt();
        builder.enableBatching(batch > 0);
        if (batch > 0) {
            // Nothing but the number of messages and the flush ends a batch.
            builder.batchingMaxMessages(batch).batchingMaxPublishDelay(5, TimeUnit.SECONDS)
                    .batcherBuilder(how.path("key_based").asBoolean() ? BatcherBuilder.KEY_BASED : BatcherBuilder.DEFAULT);
        }
        if (how.path("encrypt").asBoolean()) {
            builder.addEncryptionKey(KEY_NAME).cryptoKeyReader(keys);
        }
        return builder.create();
    }

    TypedMessageBuilder<Object> dressed(Producer<Object> producer, JsonNode schema, JsonNode message,
            Transaction transaction) throws Exception {
        TypedMessageBuilder<Object> builder =
                transaction == null ? producer.newMessage() : producer.newMessage(transaction);
        builder.value(value(schema, message));
        if (message.has("key")) {
            builder.key(message.get("key").asText());
        }
        if (message.has("ordering_key")) {
            builder.orderingKey(message.get("ordering_key").asText().getBytes(StandardCharsets.UTF_8));
        }
        message.path("properties").fields().forEachRemaining(each -> builder.property(each.getKey(), each.getValue().asText()));
        if (message.has("event_time")) {
            builder.eventTime(message.get("event_time").asLong());
        }
        if (message.has("deliver_in")) {
            long due = System.currentTimeMillis() + 1000 * message.get("deliver_in").asLong();
            builder.deliverAt(due).property("due", Long.toString(due));
        }
        return builder;
    }

    Object value(JsonNode schema, JsonNode message) throws Exception {
        if (message.path("null").asBoolean()) {
            return null;
        }
        String type = schema.path("type").asText("");
        if (message.has("file")) {
            return Files.readAllBytes(folder.resolve(message.get("file").asText()));
        }
        JsonNode value = message.path("value");
        switch (type) {
            case "":
                return message.get("text").asText().getBytes(StandardCharsets.UTF_8);
            case "STRING":
                return message.get("text").asText();
            case "PROTOBUF":
            case "PROTOBUF_NATIVE":
                return SourceContext.newBuilder().setFileName(value.asText()).build();
            case "KEY_VALUE":
                return new KeyValue<Object, Object>(message.get("pair_key").asText(), generic(schema, "JSON", value));
            default:
                return generic(schema, type, value);
        }
    }

    static Object generic(JsonNode schema, String type, JsonNode value) {
        GenericRecordBuilder builder = declared(schema, type).newRecordBuilder();
        value.fields().forEachRemaining(each -> builder.set(each.getKey(), each.getValue().asText()));
        return builder.build();
    }

    static GenericSchema<?> declared(JsonNode schema, String type) {
        byte[] definition = schema.get("definition").asText().getBytes(StandardCharsets.UTF_8);
        return (GenericSchema<?>) Schema.generic(
                SchemaInfo.builder().name("Order").type(SchemaType.valueOf(type)).schema(definition)
                        .properties(Map.of()).build());
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    static Schema<Object> schemaOf(JsonNode schema) {
        Schema found = switch (schema.path("type").asText("")) {
            case "" -> Schema.BYTES;
            case "STRING" -> Schema.STRING;
            case "PROTOBUF" -> Schema.PROTOBUF(SourceContext.class);
            case "PROTOBUF_NATIVE" -> Schema.PROTOBUF_NATIVE(SourceContext.class);
            case "KEY_VALUE" -> Schema.KeyValue((Schema) Schema.STRING, (Schema) declared(schema, "JSON"),
                    KeyValueEncodingType.valueOf(schema.get("encoding").asText()));
            default -> declared(schema, schema.get("type").asText());
        };
        return found;
    }

    /** Everything that the topic has for a reader; with `shared` what a Shared consumer gets, until `count` came. */
    ObjectNode read(JsonNode job) throws Exception {
        ObjectNode answer = JSON.createObjectNode();
        ArrayNode found = answer.putArray("messages");
        if (job.path("shared").asBoolean()) {
            consume(job, found);
            return answer;
        }
        String type = job.path("schema").path("type").asText("");
        // This client knows that type only from a class; every other schema it takes from the broker.
        Schema<?> schema = type.isEmpty() ? Schema.BYTES
                : type.equals("PROTOBUF") ? Schema.PROTOBUF(SourceContext.class) : Schema.AUTO_CONSUME();
        ReaderBuilder<?> builder = client.newReader(schema).topic(job.get("topic").asText())
                .startMessageId(MessageId.earliest).readCompacted(job.path("compacted").asBoolean()).receiverQueueSize(100);
        if (job.path("decrypt").asBoolean()) {
            builder.cryptoKeyReader(keys);
        }
        try (Reader<?> reader = builder.create()) {
            while (reader.hasMessageAvailable() || found.size() < job.path("at_least").asInt()) {
                Message<?> message = reader.readNext(PATIENCE_SECONDS, TimeUnit.SECONDS);
                if (message == null) {
                    throw new IllegalStateException("the broker has messages that it does not deliver");
                }
                found.add(seen(message, !type.isEmpty()));
            }
        }
        return answer;
    }

    void consume(JsonNode job, ArrayNode found) throws Exception {
        try (Consumer<byte[]> consumer = client.newConsumer().topic(job.get("topic").asText())
                .subscriptionName("shared-java").subscriptionType(SubscriptionType.Shared)
                .subscriptionInitialPosition(SubscriptionInitialPosition.Earliest).subscribe()) {
            for (int turn = 0; turn < job.get("count").asInt(); turn++) {
                Message<byte[]> message = consumer.receive(job.get("patience_ms").asInt(), TimeUnit.MILLISECONDS);
                if (message == null) {
                    throw new IllegalStateException("nothing came any more");
                }
                found.add(seen(message, false).put("received_at", System.currentTimeMillis()));
                consumer.acknowledge(message);
            }
        }
    }

    /** All that the client shows of a message. */
    static ObjectNode seen(Message<?> message, boolean decodes) throws Exception {
        MessageIdAdv where = (MessageIdAdv) message.getMessageId();
        byte[] version = message.getSchemaVersion();
        byte[] payload = message.getData() == null ? new byte[0] : message.getData();
        boolean isNull = message.getValue() == null;
        ObjectNode seen = JSON.createObjectNode().put("len", payload.length).put("sha256", digest(payload))
                .put("key", message.hasKey() ? message.getKey() : "").put("key_is_binary", message.hasBase64EncodedKey())
                .put("ordering_key", message.hasOrderingKey() ? hex(message.getOrderingKey()) : "")
                .put("event_time", message.getEventTime()).put("publish_time", message.getPublishTime())
                .put("producer", message.getProducerName()).put("sequence_id", message.getSequenceId())
                .put("null", isNull).put("redelivery", message.getRedeliveryCount())
                .put("replicated_from", message.getReplicatedFrom()).put("ledger", where.getLedgerId())
                .put("entry", where.getEntryId()).put("batch_index", where.getBatchIndex())
                .put("batch_size", where.getBatchSize()).put("topic", message.getTopicName())
                .put("value", decodes && !isNull ? described(message.getValue()) : null);
        seen.set("properties", JSON.valueToTree(message.getProperties()));
        if (version == null || version.length != Long.BYTES) {
            seen.putNull("schema_version");
        } else {
            seen.put("schema_version", ByteBuffer.wrap(version).getLong());
        }
        seen.set("encryption", message.getEncryptionCtx().map(Client::shown).orElse(null));
        return seen;
    }

    static ObjectNode shown(EncryptionContext context) {
        ObjectNode shown = JSON.createObjectNode().put("parameter", hex(context.getParam()))
                .put("algorithm", context.getAlgorithm()).put("compression", context.getCompressionType().name())
                .put("uncompressed", context.getUncompressedMessageSize())
                .put("batch_size", context.getBatchSize().orElse(-1));
        Map<String, Object> keys = new HashMap<>();
        context.getKeys().forEach((name, key) -> keys.put(name, List.of(hex(key.getKeyValue()), key.getMetadata())));
        shown.set("keys", JSON.valueToTree(keys));
        return shown;
    }

    static String described(Object value) {
        if (value instanceof GenericObject generic) {
            return described(generic.getNativeObject());
        }
        if (value instanceof KeyValue<?, ?> pair) {
            return described(pair.getKey()) + " = " + described(pair.getValue());
        }
        return value.toString();
    }

    static String digest(byte[] payload) throws Exception {
        return hex(MessageDigest.getInstance("SHA-256").digest(payload));
    }

    static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }

    ObjectNode done(JsonNode job) {
        try {
            return job.get("verb").asText().equals("produce") ? produce(job) : read(job);
        } catch (Throwable error) {
            return JSON.createObjectNode().put("complaint", error.toString().replace('\n', ' ') + at(error));
        }
    }

    static String at(Throwable error) {
        for (StackTraceElement frame : error.getStackTrace()) {
            if (frame.getClassName().equals("Client")) {
                return " (line " + frame.getLineNumber() + ")";
            }
        }
        return "";
    }

    public static void main(String[] arguments) throws Exception {
        // What the library prints to stdout would be taken for answers.
        PrintStream answers = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        Client client = new Client(arguments[0], Path.of(arguments[1]));
        ExecutorService pool = Executors.newFixedThreadPool(AT_ONCE);
        BufferedReader jobs = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = jobs.readLine(); line != null; line = jobs.readLine()) {
            JsonNode job = JSON.readTree(line);
            pool.submit(() -> {
                ObjectNode said = client.done(job);
                String answer = said.put("id", job.get("id").asInt()).toString();
                synchronized (answers) {
                    answers.println(answer);
                }
            });
        }
        System.exit(0);
    }
}
