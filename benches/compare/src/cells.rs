//! The workloads: the parameters of fio in each cell.

/// One workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Its column in the table.
    pub(crate) name: &'static str,
    /// fio's `rw`.
    pub(crate) pattern: &'static str,
    /// Block size in fio's notation.
    pub(crate) block: &'static str,
    /// Outstanding requests per job; 1 uses `psync`, more use `libaio`.
    pub(crate) depth: u32,
    /// Parallel jobs.
    pub(crate) jobs: u32,
    /// Whether the page cache of the image is emptied before each run.
    pub(crate) cold: bool,
}

const fn hot(name: &'static str, pattern: &'static str, block: &'static str, depth: u32, jobs: u32) -> Cell {
    Cell {
        name,
        pattern,
        block,
        depth,
        jobs,
        cold: false,
    }
}

/// Reads everything once, in order.
pub(crate) const ONCE: Cell = Cell {
    name: "once",
    pattern: "read",
    block: "1m",
    depth: 4,
    jobs: 1,
    cold: true,
};

/// All cells, hot ones first.
pub(crate) const CELLS: &[Cell] = &[
    hot("4K rr QD1", "randread", "4k", 1, 1),
    hot("4K rw QD1", "randwrite", "4k", 1, 1),
    hot("4K rr QD16", "randread", "4k", 16, 1),
    hot("4K rw QD16", "randwrite", "4k", 16, 1),
    hot("4K rr QD32x4", "randread", "4k", 32, 4),
    hot("4K rw QD32x4", "randwrite", "4k", 32, 4),
    hot("64K rr QD8", "randread", "64k", 8, 1),
    hot("64K rw QD8", "randwrite", "64k", 8, 1),
    hot("1M r QD1", "read", "1m", 1, 1),
    hot("1M w QD1", "write", "1m", 1, 1),
    hot("1M r QD4", "read", "1m", 4, 1),
    hot("1M w QD4", "write", "1m", 4, 1),
    Cell {
        name: "cold 4K rr QD32",
        pattern: "randread",
        block: "4k",
        depth: 32,
        jobs: 1,
        cold: true,
    },
    Cell {
        name: "cold 1M r QD4",
        pattern: "read",
        block: "1m",
        depth: 4,
        jobs: 1,
        cold: true,
    },
];
