"""Files that others may change: what reading them takes."""

import tracemalloc

from flowagent.component import Context
from flowagent.enrich.followed import Followed


async def test_a_small_file_takes_little_memory_however_large_one_may_be(tmp_path):
    (tmp_path / "small").write_bytes(b"four")
    followed = Followed(str(tmp_path / "small"), bytes.decode, "kind.file", Context("kind"), 1 << 30)
    tracemalloc.start()
    try:
        assert await followed.open() == "four"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
        followed.close()
