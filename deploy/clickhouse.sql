-- Flows of the Kafka topic of compose.yaml in ClickHouse, see README.md. flow.proto lies in its `format_schemas`.

CREATE DATABASE IF NOT EXISTS flows;

-- Addresses come as 4 bytes of IPv4 or 16 of IPv6. IPv4 becomes ::ffff:192.0.2.1, an address that is missing ::.
CREATE FUNCTION IF NOT EXISTS flowAddress AS (address) -> CAST(
    toFixedString(if(length(address) = 4, concat(unhex('00000000000000000000FFFF'), address), address), 16) AS IPv6
);

-- What is read: a message of Kafka holds messages of protobuf, each behind its length.
CREATE TABLE IF NOT EXISTS flows.topic
(
    time_received_ns UInt64,
    time_flow_start_ns UInt64,
    time_flow_end_ns UInt64,
    sampler_address String,
    observation_domain_id UInt32,
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

-- What is kept. `bytes` and `packets` have the agent's weight in; the estimates have the exporter's rate in as well.
CREATE TABLE IF NOT EXISTS flows.raw
(
    time_received_ns DateTime64(9) CODEC(DoubleDelta, ZSTD),
    time_flow_start_ns DateTime64(9) CODEC(DoubleDelta, ZSTD),
    time_flow_end_ns DateTime64(9) CODEC(DoubleDelta, ZSTD),
    sampler_address IPv6,
    observation_domain_id UInt32,
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
    sampling_probability Float64,
    estimated_bytes UInt64 ALIAS bytes * sampling_rate,
    estimated_packets UInt64 ALIAS packets * sampling_rate
)
ENGINE = MergeTree
PARTITION BY toDate(time_received_ns)
ORDER BY (sampler_address, time_received_ns)
TTL toDateTime(time_received_ns) + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1;

-- Protobuf does not tell 0 from missing: no rate is 1, and a row without a weight stands for itself.
CREATE MATERIALIZED VIEW IF NOT EXISTS flows.topic_to_raw TO flows.raw AS
SELECT
    fromUnixTimestamp64Nano(toInt64(t.time_received_ns)) AS time_received_ns,
    fromUnixTimestamp64Nano(toInt64(t.time_flow_start_ns)) AS time_flow_start_ns,
    fromUnixTimestamp64Nano(toInt64(t.time_flow_end_ns)) AS time_flow_end_ns,
    flowAddress(t.sampler_address) AS sampler_address,
    observation_domain_id,
    greatest(t.sampling_rate, 1) AS sampling_rate,
    flowAddress(t.src_addr) AS src_addr,
    flowAddress(t.dst_addr) AS dst_addr,
    src_port, dst_port, proto, etype, tcp_flags, in_if, out_if, bytes, packets,
    if(t.sampling_weight = 0, 1, t.sampling_weight) AS sampling_weight,
    if(t.sampling_weight = 0, 1, t.sampling_probability) AS sampling_probability
FROM flows.topic AS t;
