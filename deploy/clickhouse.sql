-- Flows from the Kafka topic of compose.yaml into ClickHouse, see README.md. flow.proto lies in `format_schemas`.

CREATE DATABASE IF NOT EXISTS flows;

-- Addresses are 4 bytes of IPv4 or 16 of IPv6; IPv4 becomes ::ffff:192.0.2.1.
CREATE FUNCTION IF NOT EXISTS flowAddress AS (address) -> toIPv6(if(
    length(address) = 4,
    IPv4NumToString(reinterpretAsUInt32(reverse(address))),
    IPv6NumToString(toFixedString(address, 16))
));

-- What is read: each message has its length before it, one or more of them in a record.
CREATE TABLE IF NOT EXISTS flows.topic
(
    time_received_ns UInt64,
    time_flow_start_ns UInt64,
    time_flow_end_ns UInt64,
    sampler_address String,
    sampling_rate UInt64,
    src_addr String,
    dst_addr String,
    src_port UInt32,
    dst_port UInt32,
    proto UInt32,
    etype UInt32,
    tcp_flags UInt32,
    in_if UInt32,
    out_if UInt32,
    bytes UInt64,
    packets UInt64,
    sampling_weight Float64,
    sampling_probability Float64
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'flows',
    kafka_group_name = 'clickhouse',
    kafka_format = 'Protobuf',
    kafka_schema = 'flow.proto:FlowMessage';

-- What is kept. `bytes` and `packets` have the agent's weight in; the exporter's `sampling_rate` is not multiplied in.
CREATE TABLE IF NOT EXISTS flows.raw
(
    time_received_ns DateTime64(9) CODEC(DoubleDelta, ZSTD),
    time_flow_start_ns DateTime64(9) CODEC(DoubleDelta, ZSTD),
    time_flow_end_ns DateTime64(9) CODEC(DoubleDelta, ZSTD),
    sampler_address IPv6,
    sampling_rate UInt64,
    src_addr IPv6,
    dst_addr IPv6,
    src_port UInt16,
    dst_port UInt16,
    proto UInt8,
    etype UInt16,
    tcp_flags UInt16,
    in_if UInt32,
    out_if UInt32,
    bytes UInt64,
    packets UInt64,
    sampling_weight Float64,
    sampling_probability Float64
)
ENGINE = MergeTree
PARTITION BY toDate(time_received_ns)
ORDER BY (sampler_address, time_received_ns)
TTL toDateTime(time_received_ns) + INTERVAL 30 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.topic_to_raw TO flows.raw AS
SELECT
    fromUnixTimestamp64Nano(toInt64(t.time_received_ns)) AS time_received_ns,
    fromUnixTimestamp64Nano(toInt64(t.time_flow_start_ns)) AS time_flow_start_ns,
    fromUnixTimestamp64Nano(toInt64(t.time_flow_end_ns)) AS time_flow_end_ns,
    flowAddress(t.sampler_address) AS sampler_address,
    greatest(t.sampling_rate, 1) AS sampling_rate,
    flowAddress(t.src_addr) AS src_addr,
    flowAddress(t.dst_addr) AS dst_addr,
    src_port, dst_port, proto, etype, tcp_flags, in_if, out_if, bytes, packets,
    -- Proto3 does not tell 0 from missing: a row without a weight stands for itself.
    if(t.sampling_weight = 0, 1, t.sampling_weight) AS sampling_weight,
    if(t.sampling_weight = 0, 1, t.sampling_probability) AS sampling_probability
FROM flows.topic AS t;
