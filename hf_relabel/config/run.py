"""Settings of how the work is done."""

from dataclasses import dataclass

from hf_relabel.config.checks import require


@dataclass(frozen=True)
class RunConfig:
    """How the work is done. Only `seed` and `shard_size` change the results.

    Args:
        dir: Folder of the run; every stage writes below it.
        shard_size: Images per shard, the unit of resuming and of sharing work.
        batch_size: Images in one forward pass on a GPU; on CPUs each thread computes one image at a time.
        workers: Processes per rank that decode images. null: none on CPUs; on a GPU the rank's share of the cores, at
            most 8.
        threads: Images that each rank computes in parallel on a CPU. null: the rank's share of the cores.
        max_error_rate: Share of unreadable images above which the run stops.
        overwrite: Redo work that was made with other settings or is damaged; work that is good stays.
        seed: Seed of all random numbers.
        part: Process one part of a stage's shards and do not wait for the others: `3/8` is the fourth of eight parts.
            `hf-relabel launch` gives one to each task.
    """

    dir: str = "runs/relabel"
    shard_size: int = 1024
    batch_size: int = 16
    workers: int | None = None
    threads: int | None = None
    max_error_rate: float = 0.01
    overwrite: bool = False
    seed: int = 0
    part: str | None = None

    def __post_init__(self) -> None:
        for key in ("shard_size", "batch_size"):
            require(getattr(self, key) >= 1, f"run.{key}", getattr(self, key), "1 or more")
        require(bool(self.dir), "run.dir", self.dir, "a folder")
        require(self.workers is None or self.workers >= 0, "run.workers", self.workers, "0 or more, or null")
        require(self.threads is None or self.threads >= 1, "run.threads", self.threads, "1 or more, or null")
        require(0 <= self.max_error_rate <= 1, "run.max_error_rate", self.max_error_rate, "from 0 to 1")
        index, _, parts = (self.part or "0/1").partition("/")
        ok = all(number.isascii() and number.isdigit() for number in (index, parts)) and int(index) < int(parts)
        require(ok, "run.part", self.part, "INDEX/PARTS, the index counted from 0, such as 3/8, or null")

    @property
    def own_part(self) -> tuple[int, int]:
        """Index of the part to work off, and the number of parts."""
        index, _, parts = (self.part or "0/1").partition("/")
        return int(index), int(parts)
