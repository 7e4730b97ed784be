"""How the suite's programs reach a cluster: the same arguments in each, and the official client that they make."""

import pathlib

import pulsar


def add_arguments(parser):
    parser.add_argument("--url", required=True, help="pulsar://host:port or pulsar+ssl://host:port")
    parser.add_argument("--ca", help="PEM file of the authority that signs the broker's certificate")
    parser.add_argument("--token-file", type=pathlib.Path)
    parser.add_argument("--cert", help="PEM file of a client certificate; needs --key")
    parser.add_argument("--key", help="PEM file of its key")


def client(arguments):
    return pulsar.Client(
        arguments.url,
        operation_timeout_seconds=120,
        authentication=authentication(arguments),
        tls_trust_certs_file_path=arguments.ca,
        tls_validate_hostname=True,
        logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
    )


def authentication(arguments):
    if arguments.token_file:
        return pulsar.AuthenticationToken(arguments.token_file.read_text())
    if arguments.cert:
        return pulsar.AuthenticationTLS(arguments.cert, arguments.key)
    return None
