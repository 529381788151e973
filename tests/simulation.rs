//! The whole protocol under trouble of every kind: linearizable blocks, no acknowledged write lost, one owner per extent, no host error,
//! and every run ends. A seed is a run: `SEED=7 cargo test --test simulation one_seed -- --nocapture`.

mod sim;

#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("SEED") else { return };
    let seed = seed.parse().expect("SEED is a number");
    match sim::run::run(seed, None) {
        Ok(coverage) => println!("seed {seed}: {coverage:#?}"),
        Err(why) => panic!("{why}"),
    }
}

/// Runs seeds on all processors; the first failure ends it. Answers what they covered.
fn sweep(seeds: std::ops::Range<u64>) -> sim::Coverage {
    let (next, end) = (std::sync::atomic::AtomicU64::new(seeds.start), seeds.end);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let worker = || {
        let mut total = sim::Coverage::new();
        loop {
            let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if seed >= end {
                return total;
            }
            match sim::run::run(seed, None) {
                Ok(coverage) => coverage.into_iter().for_each(|(what, n)| *total.entry(what).or_default() += n),
                Err(why) => {
                    next.store(end, std::sync::atomic::Ordering::Relaxed);
                    panic!("{why}\nto run it again: SEED={seed} cargo test --test simulation one_seed");
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut total = sim::Coverage::new();
        for one in all {
            let coverage = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            coverage.into_iter().for_each(|(what, n)| *total.entry(what).or_default() += n);
        }
        total
    })
}

#[test]
fn ten_thousand_seeds() {
    let begun = std::time::Instant::now();
    let coverage = sweep(0..10_000);
    println!("10000 seeds in {:?}", begun.elapsed());
    coverage.iter().for_each(|(what, n)| println!("{n:10} {what}"));
}
