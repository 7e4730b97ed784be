// What a broker must do, tried with the official Java client: one line for each case, `ok name` or `FAILED name: …`.
// The same cases as cases.py. Knows nothing of the broker that it tries.
//
//     java -cp "lib/*" Conformance.java pulsar://127.0.0.1:6650 public/conformance [case…]

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import org.apache.pulsar.client.api.CompressionType;
import org.apache.pulsar.client.api.Consumer;
import org.apache.pulsar.client.api.ConsumerBuilder;
import org.apache.pulsar.client.api.Message;
import org.apache.pulsar.client.api.MessageId;
import org.apache.pulsar.client.api.MessageIdAdv;
import org.apache.pulsar.client.api.Producer;
import org.apache.pulsar.client.api.ProducerBuilder;
import org.apache.pulsar.client.api.PulsarClient;
import org.apache.pulsar.client.api.PulsarClientException;
import org.apache.pulsar.client.api.Reader;
import org.apache.pulsar.client.api.Schema;
import org.apache.pulsar.client.api.SubscriptionInitialPosition;
import org.apache.pulsar.client.api.SubscriptionType;

public class Conformance {
    static final int PATIENCE_MS = 10_000;
    static final int QUIET_MS = 700;
    static String url;
    static String namespace;

    interface Case {
        void run(Conformance place) throws Exception;
    }

    public static class Order {
        public String item;
    }

    final String name;
    final List<PulsarClient> clients = new ArrayList<>();
    PulsarClient client;

    Conformance(String name) throws Exception {
        this.name = name;
        client = another();
    }

    PulsarClient another() throws Exception {
        PulsarClient another = PulsarClient.builder().serviceUrl(url).operationTimeout(10, TimeUnit.SECONDS).build();
        clients.add(another);
        return another;
    }

    String topic() {
        return topic("java-" + name);
    }

    static String topic(String of) {
        return "persistent://" + namespace + "/" + of;
    }

    ProducerBuilder<byte[]> producer() {
        return client.newProducer().topic(topic()).enableBatching(false);
    }

    ConsumerBuilder<byte[]> consumer(PulsarClient of) {
        return of.newConsumer().topic(topic()).subscriptionName("sub")
                .subscriptionInitialPosition(SubscriptionInitialPosition.Earliest);
    }

    ConsumerBuilder<byte[]> consumer() {
        return consumer(client);
    }

    static List<MessageId> send(Producer<byte[]> producer, int from, int to) throws Exception {
        List<MessageId> ids = new ArrayList<>();
        for (int number = from; number < to; number++) {
            ids.add(producer.send(bytes(number)));
        }
        return ids;
    }

    static void sendAsync(Producer<byte[]> producer, int from, int to) throws Exception {
        for (int number = from; number < to; number++) {
            producer.sendAsync(bytes(number));
        }
        producer.flush();
    }

    static byte[] bytes(int number) {
        return Integer.toString(number).getBytes(StandardCharsets.UTF_8);
    }

    static String text(Message<byte[]> message) {
        return new String(message.getData(), StandardCharsets.UTF_8);
    }

    static <T> Message<T> next(Consumer<T> consumer) throws Exception {
        Message<T> message = consumer.receive(PATIENCE_MS, TimeUnit.MILLISECONDS);
        if (message == null) {
            throw new AssertionError("nothing came in " + PATIENCE_MS + " ms");
        }
        return message;
    }

    static List<String> texts(Consumer<byte[]> consumer, int count) throws Exception {
        List<String> texts = new ArrayList<>();
        for (int turn = 0; turn < count; turn++) {
            Message<byte[]> message = next(consumer);
            texts.add(text(message));
            consumer.acknowledge(message);
        }
        return texts;
    }

    static void nothing(Consumer<?> consumer) throws Exception {
        Message<?> message = consumer.receive(QUIET_MS, TimeUnit.MILLISECONDS);
        same(message == null ? null : new String(message.getData()), null);
    }

    static List<String> numbers(int from, int to) {
        List<String> numbers = new ArrayList<>();
        for (int number = from; number < to; number++) {
            numbers.add(Integer.toString(number));
        }
        return numbers;
    }

    static void same(Object found, Object expected) {
        if (!Objects.equals(found, expected)) {
            throw new AssertionError(found + " instead of " + expected);
        }
    }

    static void hold(boolean condition, Object otherwise) {
        if (!condition) {
            throw new AssertionError(otherwise);
        }
    }

    static void single(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        List<MessageId> ids = send(place.producer().create(), 0, 20);
        same(texts(consumer, 20), numbers(0, 20));
        same(new HashSet<>(ids).size(), 20);
        nothing(consumer);
    }

    static void batched(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        Producer<byte[]> producer = place.producer().enableBatching(true).batchingMaxMessages(10)
                .batchingMaxPublishDelay(1, TimeUnit.SECONDS).create();
        sendAsync(producer, 0, 100);
        int largest = 0;
        Message<byte[]> last = null;
        for (int number = 0; number < 100; number++) {
            last = next(consumer);
            same(text(last), Integer.toString(number));
            largest = Math.max(largest, ((MessageIdAdv) last.getMessageId()).getBatchIndex());
        }
        same(largest, 9);
        consumer.acknowledgeCumulative(last);
    }

    static void compressed(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        for (CompressionType type : CompressionType.values()) {
            for (boolean batching : new boolean[] {false, true}) {
                Producer<byte[]> producer = place.producer().compressionType(type).enableBatching(batching).create();
                sendAsync(producer, 0, 10);
                producer.close();
                same(texts(consumer, 10), numbers(0, 10));
            }
        }
    }

    static void chunked(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        Producer<byte[]> producer = place.producer().enableChunking(true).create();
        byte[] large = new byte[11 << 20];
        for (int at = 0; at < large.length; at++) {
            large[at] = (byte) (at * 31);
        }
        producer.send(large);
        producer.send(bytes(1));
        Message<byte[]> message = next(consumer);
        hold(Arrays.equals(message.getData(), large), message.getData().length + " bytes");
        consumer.acknowledge(message);
        same(texts(consumer, 1), List.of("1"));
    }

    static void dressed(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        for (boolean batching : new boolean[] {false, true}) {
            Producer<byte[]> producer = place.producer().enableBatching(batching)
                    .producerName("dresser-" + batching).initialSequenceId(41).create();
            producer.newMessage().value(bytes(1)).property("a", "1").property("b", "").key("key")
                    .orderingKey(bytes(5)).eventTime(77).send();
            Message<byte[]> message = next(consumer);
            same(message.getProperties(), Map.of("a", "1", "b", ""));
            same(message.getKey(), "key");
            same(new String(message.getOrderingKey()), "5");
            same(message.getEventTime(), 77L);
            same(message.getProducerName(), "dresser-" + batching);
            same(message.getSequenceId(), 42L);
            producer.newMessage().value(null).send();
            same(next(consumer).getData(), null);
        }
    }

    static void exclusive(Conformance place) throws Exception {
        Consumer<byte[]> first = place.consumer().subscribe();
        try {
            place.consumer(place.another()).subscribe();
            throw new AssertionError("a second consumer was let in");
        } catch (PulsarClientException.ConsumerBusyException expected) {
            // As it should be.
        }
        send(place.producer().create(), 0, 3);
        same(texts(first, 3), numbers(0, 3));
        first.close();
        nothing(place.consumer(place.another()).subscribe());
    }

    static void failover(Conformance place) throws Exception {
        Consumer<byte[]> active = place.consumer().subscriptionType(SubscriptionType.Failover).priorityLevel(0)
                .consumerName("z").subscribe();
        Consumer<byte[]> standby = place.consumer(place.another()).subscriptionType(SubscriptionType.Failover)
                .priorityLevel(1).consumerName("a").subscribe();
        send(place.producer().create(), 0, 10);
        same(texts(active, 5), numbers(0, 5));
        nothing(standby);
        active.close();
        same(texts(standby, 5), numbers(5, 10));
    }

    static void shared(Conformance place) throws Exception {
        List<Consumer<byte[]>> consumers = new ArrayList<>();
        for (int turn = 0; turn < 2; turn++) {
            consumers.add(place.consumer(place.another()).subscriptionType(SubscriptionType.Shared)
                    .receiverQueueSize(10).subscribe());
        }
        send(place.producer().create(), 0, 60);
        Set<Integer> seen = new TreeSet<>();
        int[] shares = new int[2];
        for (int turn = 0; seen.size() < 60 && turn < 200; turn++) {
            Message<byte[]> message = consumers.get(turn % 2).receive(200, TimeUnit.MILLISECONDS);
            if (message != null) {
                hold(seen.add(Integer.valueOf(text(message))), text(message) + " came twice");
                consumers.get(turn % 2).acknowledge(message);
                shares[turn % 2]++;
            }
        }
        same(seen.size(), 60);
        hold(Math.min(shares[0], shares[1]) > 5, Arrays.toString(shares));
    }

    static void individual_ack(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscriptionType(SubscriptionType.Shared)
                .isAckReceiptEnabled(true).subscribe();
        send(place.producer().create(), 0, 10);
        for (int turn = 0; turn < 10; turn++) {
            Message<byte[]> message = next(consumer);
            if (Integer.parseInt(text(message)) % 2 == 1) {
                consumer.acknowledge(message);
            }
        }
        consumer.close();
        Consumer<byte[]> again = place.consumer().subscriptionType(SubscriptionType.Shared).subscribe();
        same(new TreeSet<>(texts(again, 5)), new TreeSet<>(List.of("0", "2", "4", "6", "8")));
        nothing(again);
    }

    static void cumulative_ack(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().isAckReceiptEnabled(true).subscribe();
        send(place.producer().create(), 0, 10);
        for (int number = 0; number < 10; number++) {
            Message<byte[]> message = next(consumer);
            if (number == 6) {
                consumer.acknowledgeCumulative(message);
            }
        }
        consumer.close();
        Consumer<byte[]> again = place.consumer().subscribe();
        same(texts(again, 3), numbers(7, 10));
        nothing(again);
    }

    static void negative_ack(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscriptionType(SubscriptionType.Shared)
                .negativeAckRedeliveryDelay(100, TimeUnit.MILLISECONDS).subscribe();
        send(place.producer().create(), 0, 3);
        for (int turn = 0; turn < 3; turn++) {
            Message<byte[]> message = next(consumer);
            if (text(message).equals("1")) {
                same(message.getRedeliveryCount(), 0);
                consumer.negativeAcknowledge(message);
            } else {
                consumer.acknowledge(message);
            }
        }
        Message<byte[]> message = next(consumer);
        same(text(message), "1");
        same(message.getRedeliveryCount(), 1);
        consumer.acknowledge(message);
        nothing(consumer);
    }

    static void redelivery(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        send(place.producer().create(), 0, 5);
        same(texts(consumer, 2), numbers(0, 2));
        for (int number = 2; number < 5; number++) {
            same(text(next(consumer)), Integer.toString(number));
        }
        consumer.redeliverUnacknowledgedMessages();
        same(texts(consumer, 3), numbers(2, 5));
        nothing(consumer);
    }

    static void seek_by_id(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().startMessageIdInclusive().subscribe();
        List<MessageId> ids = send(place.producer().create(), 0, 10);
        same(texts(consumer, 10), numbers(0, 10));
        consumer.seek(ids.get(4));
        same(texts(consumer, 6), numbers(4, 10));
        consumer.seek(MessageId.earliest);
        same(texts(consumer, 10), numbers(0, 10));
        consumer.seek(MessageId.latest);
        nothing(consumer);
    }

    static void seek_by_time(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        Producer<byte[]> producer = place.producer().create();
        send(producer, 0, 5);
        same(texts(consumer, 5), numbers(0, 5));
        Thread.sleep(50);
        long between = System.currentTimeMillis();
        Thread.sleep(50);
        send(producer, 5, 10);
        same(texts(consumer, 5), numbers(5, 10));
        consumer.seek(between);
        same(texts(consumer, 5), numbers(5, 10));
        nothing(consumer);
    }

    static void last_message_id(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        MessageIdAdv empty = (MessageIdAdv) consumer.getLastMessageIds().get(0);
        same(empty.getEntryId(), -1L);
        Producer<byte[]> producer = place.producer().enableBatching(true).create();
        sendAsync(producer, 0, 3);
        MessageIdAdv last = (MessageIdAdv) consumer.getLastMessageIds().get(0);
        Message<byte[]> message = null;
        for (int number = 0; number < 3; number++) {
            message = next(consumer);
        }
        MessageIdAdv expected = (MessageIdAdv) message.getMessageId();
        same(last.getLedgerId() + ":" + last.getEntryId(), expected.getLedgerId() + ":" + expected.getEntryId());
        same(last.getBatchIndex(), expected.getBatchIndex());
    }

    static void deduplicated(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        for (int session = 0; session < 2; session++) {
            Producer<byte[]> producer = place.producer().producerName("steady").create();
            same(producer.getLastSequenceId(), session == 0 ? -1L : 4L);
            for (int number = 0; number < 5 + 3 * session; number++) {
                MessageIdAdv id = (MessageIdAdv) producer.newMessage().value(bytes(number)).sequenceId(number).send();
                same(id.getEntryId() == -1, session == 1 && number < 5);
            }
            producer.close();
        }
        same(texts(consumer, 8), numbers(0, 8));
        nothing(consumer);
    }

    static void producer_busy(Conformance place) throws Exception {
        Producer<byte[]> holder = place.producer().producerName("mine").create();
        ProducerBuilder<byte[]> other = place.another().newProducer().topic(place.topic()).producerName("mine");
        try {
            other.create();
            throw new AssertionError("a second producer of the name was let in");
        } catch (PulsarClientException.ProducerBusyException expected) {
            // As it should be.
        }
        holder.close();
        other.create();
    }

    static void partitioned(Conformance place) throws Exception {
        String topic = topic("parts-java");
        same(place.client.getPartitionsForTopic(topic).get().size(), 3);
        Consumer<byte[]> consumer = place.client.newConsumer().topic(topic).subscriptionName("sub")
                .subscriptionInitialPosition(SubscriptionInitialPosition.Earliest).subscribe();
        Producer<byte[]> producer = place.client.newProducer().topic(topic).create();
        for (int number = 0; number < 30; number++) {
            producer.newMessage().key("key-" + number % 7).value(bytes(number)).send();
        }
        Set<Integer> seen = new TreeSet<>();
        Set<String> topics = new TreeSet<>();
        for (int turn = 0; turn < 30; turn++) {
            Message<byte[]> message = next(consumer);
            seen.add(Integer.valueOf(text(message)));
            topics.add(message.getTopicName());
        }
        same(seen.size(), 30);
        same(topics, new TreeSet<>(List.of(topic + "-partition-0", topic + "-partition-1", topic + "-partition-2")));
        consumer.unsubscribe();
    }

    static void pattern(Conformance place) throws Exception {
        Set<String> topics = new TreeSet<>();
        List<Producer<byte[]>> producers = new ArrayList<>();
        for (String each : List.of("a", "b")) {
            topics.add(topic("java-pattern-" + each));
            producers.add(place.client.newProducer().topic(topic("java-pattern-" + each)).create());
        }
        Consumer<byte[]> consumer = place.client.newConsumer().subscriptionName("sub")
                .topicsPattern(Pattern.compile("persistent://" + namespace + "/java-pattern-.*"))
                .subscriptionInitialPosition(SubscriptionInitialPosition.Earliest).subscribe();
        for (Producer<byte[]> producer : producers) {
            producer.send(bytes(1));
        }
        Set<String> found = new TreeSet<>();
        for (int turn = 0; turn < 2; turn++) {
            found.add(next(consumer).getTopicName());
        }
        same(found, topics);
    }

    static void schema(Conformance place) throws Exception {
        Schema<Order> json = Schema.JSON(Order.class);
        Consumer<Order> consumer = place.client.newConsumer(json).topic(place.topic()).subscriptionName("sub")
                .subscriptionInitialPosition(SubscriptionInitialPosition.Earliest).subscribe();
        Producer<Order> producer = place.client.newProducer(json).topic(place.topic()).create();
        Order order = new Order();
        order.item = "apple";
        producer.send(order);
        Message<Order> message = next(consumer);
        same(message.getValue().item, "apple");
        same(message.getSchemaVersion().length, 8);
        // A reader that knows nothing of it asks the broker for the schema.
        Reader<?> reader = place.client.newReader(Schema.AUTO_CONSUME()).topic(place.topic())
                .startMessageId(MessageId.earliest).create();
        Object value = reader.readNext(PATIENCE_MS, TimeUnit.MILLISECONDS).getValue();
        same(((org.apache.pulsar.client.api.schema.GenericRecord) value).getField("item"), "apple");
        try {
            place.client.newProducer(Schema.STRING).topic(place.topic()).create();
            throw new AssertionError("a schema of another type was taken");
        } catch (PulsarClientException.IncompatibleSchemaException expected) {
            // As it should be.
        }
    }

    static void reader_earliest(Conformance place) throws Exception {
        List<MessageId> ids = send(place.producer().create(), 0, 5);
        Reader<byte[]> reader =
                place.client.newReader().topic(place.topic()).startMessageId(MessageId.earliest).create();
        same(read(reader, 5), numbers(0, 5));
        same(reader.hasMessageAvailable(), false);
        same(read(place.client.newReader().topic(place.topic()).startMessageId(ids.get(2)).create(), 2), numbers(3, 5));
        same(read(place.client.newReader().topic(place.topic()).startMessageId(ids.get(2)).startMessageIdInclusive()
                .create(), 3), numbers(2, 5));
    }

    static List<String> read(Reader<byte[]> reader, int count) throws Exception {
        List<String> texts = new ArrayList<>();
        for (int turn = 0; turn < count; turn++) {
            Message<byte[]> message = reader.readNext(PATIENCE_MS, TimeUnit.MILLISECONDS);
            texts.add(message == null ? null : text(message));
        }
        return texts;
    }

    static void reader_seek_by_time(Conformance place) throws Exception {
        Producer<byte[]> producer = place.producer().create();
        send(producer, 0, 5);
        Thread.sleep(50);
        long between = System.currentTimeMillis();
        Thread.sleep(50);
        send(producer, 5, 10);
        Reader<byte[]> reader =
                place.client.newReader().topic(place.topic()).startMessageId(MessageId.latest).create();
        reader.seek(between);
        same(read(reader, 5), numbers(5, 10));
    }

    static void unsubscribed(Conformance place) throws Exception {
        Consumer<byte[]> consumer = place.consumer().subscribe();
        Producer<byte[]> producer = place.producer().create();
        send(producer, 0, 3);
        consumer.unsubscribe();
        Consumer<byte[]> again =
                place.consumer().subscriptionInitialPosition(SubscriptionInitialPosition.Latest).subscribe();
        send(producer, 3, 5);
        same(texts(again, 2), numbers(3, 5));
    }

    static void batch_index_ack(Conformance place) throws Exception {
        ConsumerBuilder<byte[]> builder = place.consumer().subscriptionType(SubscriptionType.Shared)
                .enableBatchIndexAcknowledgment(true).acknowledgmentGroupTime(0, TimeUnit.SECONDS);
        Consumer<byte[]> consumer = builder.subscribe();
        Producer<byte[]> producer = place.producer().enableBatching(true)
                .batchingMaxPublishDelay(1, TimeUnit.SECONDS).create();
        sendAsync(producer, 0, 4);
        for (int number = 0; number < 4; number++) {
            Message<byte[]> message = next(consumer);
            if (number % 2 == 0) {
                consumer.acknowledge(message);
            }
        }
        consumer.close();
        Consumer<byte[]> again = builder.subscribe();
        same(texts(again, 2), List.of("1", "3"));
        again.close();
        // Every message of the batch: only then the entry is done with.
        nothing(builder.subscribe());
    }

    /** Not a case but a session to be recorded by golden.py: a little of everything, nothing that depends on time. */
    static void golden(Conformance place) throws Exception {
        String topic = topic("golden-00000000");
        ConsumerBuilder<byte[]> builder = place.client.newConsumer().topic(topic).subscriptionName("golden")
                .subscriptionType(SubscriptionType.Failover).consumerName("golden-consumer")
                .acknowledgmentGroupTime(0, TimeUnit.SECONDS).startMessageIdInclusive()
                .subscriptionInitialPosition(SubscriptionInitialPosition.Earliest);
        Consumer<byte[]> consumer = builder.subscribe();
        Producer<byte[]> producer = place.client.newProducer().topic(topic).producerName("golden-producer")
                .compressionType(CompressionType.LZ4).batchingMaxMessages(3)
                .batchingMaxPublishDelay(10, TimeUnit.SECONDS).create();
        sendAsync(producer, 0, 3);
        producer.close();
        same(text(next(consumer)) + text(next(consumer)), "01");
        consumer.acknowledgeCumulative(next(consumer));
        Thread.sleep(300);
        // Above and below what the broker has seen of this name.
        producer = place.client.newProducer().topic(topic).producerName("golden-producer").enableBatching(false)
                .create();
        producer.newMessage().sequenceId(1).value(bytes(1)).send();
        MessageId sent = producer.newMessage().sequenceId(9).key("key").property("a", "b").eventTime(7)
                .value(bytes(9)).send();
        same(text(next(consumer)), "9");
        consumer.redeliverUnacknowledgedMessages();
        same(text(next(consumer)), "9");
        consumer.getLastMessageIds();
        consumer.seek(sent);
        Message<byte[]> message = next(consumer);
        consumer.acknowledge(message);
        Thread.sleep(300);
        consumer.unsubscribe();
        producer.close();
        Producer<Order> ordered = place.client.newProducer(Schema.JSON(Order.class)).topic(topic)
                .producerName("golden-orders").enableBatching(false).create();
        ordered.close();
        place.client.newReader(Schema.AUTO_CONSUME()).topic(topic).readerName("golden-reader")
                .subscriptionName("golden-reader").startMessageId(MessageId.latest).create().close();
    }

    static final Object[][] CASES = {
        {"single", (Case) Conformance::single}, {"batched", (Case) Conformance::batched},
        {"compressed", (Case) Conformance::compressed}, {"chunked", (Case) Conformance::chunked},
        {"dressed", (Case) Conformance::dressed}, {"exclusive", (Case) Conformance::exclusive},
        {"failover", (Case) Conformance::failover}, {"shared", (Case) Conformance::shared},
        {"individual_ack", (Case) Conformance::individual_ack},
        {"cumulative_ack", (Case) Conformance::cumulative_ack},
        {"batch_index_ack", (Case) Conformance::batch_index_ack},
        {"negative_ack", (Case) Conformance::negative_ack}, {"redelivery", (Case) Conformance::redelivery},
        {"seek_by_id", (Case) Conformance::seek_by_id}, {"seek_by_time", (Case) Conformance::seek_by_time},
        {"last_message_id", (Case) Conformance::last_message_id},
        {"deduplicated", (Case) Conformance::deduplicated}, {"producer_busy", (Case) Conformance::producer_busy},
        {"partitioned", (Case) Conformance::partitioned}, {"pattern", (Case) Conformance::pattern},
        {"schema", (Case) Conformance::schema}, {"reader_earliest", (Case) Conformance::reader_earliest},
        {"reader_seek_by_time", (Case) Conformance::reader_seek_by_time},
        {"unsubscribed", (Case) Conformance::unsubscribed}, {"golden", (Case) Conformance::golden},
    };

    public static void main(String[] arguments) throws Exception {
        url = arguments[0];
        namespace = arguments[1];
        List<String> wanted = Arrays.asList(arguments).subList(2, arguments.length);
        for (Object[] each : CASES) {
            String name = (String) each[0];
            if (wanted.isEmpty() ? name.equals("golden") : !wanted.contains(name)) {
                continue;
            }
            Conformance place = new Conformance(name);
            try {
                ((Case) each[1]).run(place);
                System.out.println("ok " + name);
            } catch (Throwable error) {
                System.out.println("FAILED " + name + ": " + error.toString().replace('\n', ' ') + at(error));
            }
            // Nobody waits for it: each takes two seconds to say goodbye.
            place.clients.forEach(PulsarClient::closeAsync);
        }
        System.exit(0);
    }

    /** The line of the case. */
    static String at(Throwable error) {
        for (StackTraceElement frame : error.getStackTrace()) {
            if (frame.getClassName().equals("Conformance") && !frame.getMethodName().equals("same")) {
                return " (line " + frame.getLineNumber() + ")";
            }
        }
        return "";
    }
}
