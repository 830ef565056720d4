"""The group-by: rows of equal 5-tuple found and merged."""

from benchmarks.flows import Records
from benchmarks.options import Options
from benchmarks.table import Stopwatch, Table, calibrate, measure
from flowagent.aggregate.group import aggregate
from flowagent.batch import Batch
from flowagent.grouping import group_rows, key_arrays
from flowagent.schema import FLOW_KEY
from flowagent.sections import Window

ROWS = (5_000, 20_000, 50_000, 200_000)


def run(options: Options) -> Table:
    table = Table("Group by 5-tuple", calibration_ms=[calibrate()])
    records = Records()
    for count in ROWS[:2] if options.quick else ROWS:
        batch = records.draw(count)
        merged = len(aggregate(batch, FLOW_KEY, Window().measures))
        grouping, whole = _ns_per_row(batch, options.enough)
        table.rows.append({"rows": count, "groups": merged, "ns/row, group_rows": grouping, "ns/row, aggregate": whole})
    return table


def _ns_per_row(batch: Batch, seconds: float) -> tuple[float, float]:
    def group(watch: Stopwatch) -> int:
        with watch:
            return len(group_rows(list(key_arrays(batch, FLOW_KEY))).order)

    def merge(watch: Stopwatch) -> int:
        with watch:
            aggregate(batch, FLOW_KEY, Window().measures)
        return len(batch)

    return measure(group, seconds), measure(merge, seconds)
