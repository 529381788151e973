//! Finds the best number of active reader threads by trial, because no rule predicts it. Where hosts send many requests at once, a second thread
//! contends with the first for the connection's queue; where a host waits for each reply, a second thread is awake when the first goes to sleep;
//! with more processors, other numbers are best. Pure: request rates go in, a number comes out.
//!
//! ```text
//!             patience is over                 a phase                            a phase
//!   Settled ---------------------> Trying ----------------> Comparing ----------------------------> Settled
//!   (the best so far)          (another number)         (the best so far again)    tried was faster: it is
//!                                 |                                                the best now
//!                                 +--- clearly slower: at once ------------------------------------------^
//! ```
//!
//! A number that is nearly as good is tried again soon, because that costs next to nothing; one that is much worse is not tried for long.

/// Windows that a trial takes, and as many that the comparison takes.
const PHASE: u32 = 6;
/// Number of windows at the end of a phase that count: the first one contains the switch.
const COUNTED: u32 = PHASE - 1;
/// A number is better only if its rate is at least this many times the rate before the trial: a smaller gain is chance.
const GAIN: f64 = 1.05;
/// Its rate also has to be at least this share of the rate after the trial, because a load that grows by itself has a higher rate then. The share
/// is less than 1, because for a moment the old number profits from how the kernel's scheduler has placed threads for the new one.
const KEPT: f64 = 0.97;
/// A rate below this share of the rate before ends a trial.
const LOSS: f64 = 0.85;
/// Number of windows at the beginning of a trial that cannot end it.
const GRACE: u32 = 2;
/// A load whose rate has changed by this factor for a whole phase is another load, for which earlier results do not hold.
const OTHER_LOAD: f64 = 1.5;
/// Share of the throughput that trials may cost. It determines the wait after a trial.
const COST: f64 = 0.01;
/// Windows from the start of a load, or from a new best number, to the next trial: for some 60 ms after a change the kernel's scheduler lets
/// threads share a processor that will not share it later, so a single thread looks better than it is, or worse.
const SETTLING: u32 = 14;
/// Minimum and maximum number of windows from a trial without a gain to the next one.
const LEAST_PATIENCE: u32 = 30;
const MOST_PATIENCE: u32 = 640;
/// Below this many requests per second all threads are active: there is nothing to gain, and no request is to wait for a thread.
const QUIET: f64 = 2000.0;
/// Number of active threads at the start of the first load.
const FIRST: usize = 3;
/// Number of candidates that are tried one after the other.
const CANDIDATES: usize = 4;

/// Decides on the number of active threads, from the rate of each window in requests per second.
#[derive(Debug)]
pub(super) struct Governor {
    most: usize,
    best: usize,
    quiet: bool,
    /// Index of the candidate that is tried next.
    candidate: usize,
    patience: u32,
    phase: Phase,
    windows: u32,
    counted: f64,
    rate: f64,
    /// Cost of the trial, in windows.
    cost: f64,
    /// Number of consecutive windows in which the load looked like another.
    changed_windows: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Settled,
    Trying { number: usize, before: f64 },
    Comparing { number: usize, before: f64, tried: f64 },
}

impl Governor {
    /// Makes a governor for at most `most` threads, and at least one.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self {
            most,
            best: most.min(FIRST),
            quiet: true,
            candidate: 0,
            patience: SETTLING,
            phase: Phase::Settled,
            windows: 0,
            counted: 0.0,
            rate: 0.0,
            cost: 0.0,
            changed_windows: 0,
        }
    }

    /// Returns how many threads are to be active now.
    pub(super) fn number(&self) -> usize {
        match self.phase {
            _ if self.quiet => self.most,
            Phase::Trying { number, .. } => number,
            Phase::Settled | Phase::Comparing { .. } => self.best,
        }
    }

    /// Records a window, with its rate in requests per second.
    pub(super) fn window(&mut self, rate: f64) {
        if rate < QUIET {
            *self = self.reset();
            return;
        }
        if self.quiet || self.is_other_load(rate) {
            *self = Self {
                quiet: false,
                rate,
                ..self.reset()
            };
            return;
        }
        self.windows += 1;
        let length = match self.phase {
            Phase::Settled => self.patience,
            Phase::Trying { .. } | Phase::Comparing { .. } => PHASE,
        };
        if let Phase::Trying { before, .. } = self.phase {
            self.cost += 1.0 - rate / before;
        }
        if self.windows + COUNTED > length {
            self.counted += rate;
        }
        if self.is_lost(rate) {
            (self.windows, self.counted, self.phase) = (0, 0.0, Phase::Settled);
            self.end_without_gain();
        } else if self.windows == length {
            let mean = self.counted / f64::from(COUNTED);
            (self.windows, self.counted) = (0, 0.0);
            self.phase = self.after(mean);
        }
    }

    /// Returns the state at the start of a load. It keeps the last best number: hosts come and go, and mostly cause the same load again.
    fn reset(&self) -> Self {
        Self {
            best: self.best,
            ..Self::new(self.most)
        }
    }

    fn is_other_load(&mut self, rate: f64) -> bool {
        let changed = rate > self.rate * OTHER_LOAD || rate * OTHER_LOAD < self.rate;
        let differs = changed && matches!(self.phase, Phase::Settled);
        self.changed_windows = if differs { self.changed_windows + 1 } else { 0 };
        self.changed_windows == PHASE
    }

    fn is_lost(&self, rate: f64) -> bool {
        matches!(self.phase, Phase::Trying { before, .. } if self.windows > GRACE && rate < before * LOSS)
    }

    fn after(&mut self, mean: f64) -> Phase {
        match self.phase {
            Phase::Settled => {
                self.rate = mean;
                let before = mean;
                self.next_candidate()
                    .map_or(Phase::Settled, |number| Phase::Trying { number, before })
            }
            Phase::Trying { number, before } => Phase::Comparing {
                number,
                before,
                tried: mean,
            },
            Phase::Comparing {
                number,
                before,
                tried,
            } => {
                self.judge(number, tried, before, mean);
                Phase::Settled
            }
        }
    }

    /// Returns the number to try next: one less, one more, 1, or [`FIRST`], which may be best where both neighbours are worse.
    fn next_candidate(&self) -> Option<usize> {
        let candidates: [usize; CANDIDATES] = [1, self.best + 1, self.best - 1, FIRST];
        let fits = |number: &usize| (1..=self.most).contains(number) && *number != self.best;
        let rotated = candidates.iter().cycle().skip(self.candidate);
        rotated.take(CANDIDATES).copied().find(fits)
    }

    fn judge(&mut self, number: usize, tried: f64, before: f64, after: f64) {
        if tried > before * GAIN && tried > after * KEPT {
            (self.best, self.rate) = (number, tried);
            (self.cost, self.patience) = (0.0, SETTLING);
        } else {
            self.rate = after;
            self.end_without_gain();
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is clamped between two small numbers"
    )]
    fn end_without_gain(&mut self) {
        self.candidate = (self.candidate + 1) % CANDIDATES;
        let fair = self.cost / COST;
        self.cost = 0.0;
        self.patience = fair.clamp(LEAST_PATIENCE.into(), MOST_PATIENCE.into()) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `windows` windows of a load that 1, 2, … threads serve at these rates, with up to 2 % of noise. Returns the throughput as a share
    /// of that of the best number.
    fn run(governor: &mut Governor, rates: &[f64], windows: u32) -> f64 {
        let best = rates.iter().copied().fold(0.0, f64::max);
        let mut served = 0.0;
        for window in 0..windows {
            let rate = rates[governor.number() - 1];
            served += rate;
            let noise = f64::from(window * 7919 % 41) / 1000.0 - 0.02;
            governor.window(rate * (1.0 + noise));
        }
        served / (best * f64::from(windows))
    }

    #[test]
    fn finds_the_best_number_wherever_it_is_and_trials_cost_little() {
        for rates in [
            [321e3, 219e3, 200e3, 190e3],
            [25e3, 52e3, 45e3, 40e3],
            [100e3, 180e3, 250e3, 220e3],
            [100e3, 180e3, 250e3, 300e3],
            [246e3, 215e3, 235e3, 200e3],
            [100e3, 102e3, 101e3, 100e3],
        ] {
            let mut governor = Governor::new(4);
            run(&mut governor, &rates, 300);
            let share = run(&mut governor, &rates, 2000);
            assert!(share > 0.98, "{rates:?}: {share}");
        }
    }

    #[test]
    fn another_number_is_taken_for_a_gain_only() {
        let mut governor = Governor::new(2);
        for (rates, best) in [
            ([103e3, 100e3], 2),
            ([110e3, 100e3], 1),
            ([100e3, 103e3], 1),
            ([100e3, 110e3], 2),
        ] {
            run(&mut governor, &rates, 1000);
            assert_eq!(governor.best, best, "{rates:?}");
        }
    }

    /// After a trial of one thread the kernel's scheduler has placed the threads better, and for a while two serve as much.
    #[test]
    fn the_profit_of_the_old_number_from_a_trial_does_not_hide_a_gain() {
        let mut governor = Governor::new(2);
        let mut since_alone = u32::MAX;
        for _ in 0..200 {
            let rate = match governor.number() {
                1 => {
                    since_alone = 0;
                    250e3
                }
                _ => {
                    since_alone = since_alone.saturating_add(1);
                    if since_alone < 40 { 255e3 } else { 200e3 }
                }
            };
            governor.window(rate);
        }
        assert_eq!(governor.best, 1);
    }

    #[test]
    fn a_much_worse_number_is_tried_seldom_and_a_nearly_equal_one_often() {
        let tries = |worse: f64| {
            let mut governor = Governor::new(2);
            let (mut tries, mut before) = (0, 2);
            for _ in 0..2000 {
                let number = governor.number();
                tries += u32::from(number == 1 && before == 2);
                before = number;
                governor.window([worse, 100e3][number - 1]);
            }
            tries
        };
        assert!((40..60).contains(&tries(99e3)), "{}", tries(99e3));
        assert!((5..15).contains(&tries(20e3)), "{}", tries(20e3));
    }

    /// While a load is new, a single thread shares the host's processor and looks twice as good as it will be.
    #[test]
    fn nothing_is_tried_while_a_load_is_new() {
        let mut governor = Governor::new(2);
        for window in 0..12 {
            assert_eq!(governor.number(), 2, "window {window}");
            governor.window(50e3);
        }
    }

    #[test]
    fn a_load_that_swings_is_not_a_new_one_each_time() {
        let mut governor = Governor::new(2);
        let mut alone = 0;
        for window in 0..2000 {
            let swing = [1.0, 0.6, 1.7][window % 3];
            let number = governor.number();
            alone += u32::from(number == 1);
            governor.window([25e3, 52e3][number - 1] * swing);
        }
        assert!(alone < 60, "{alone} of 2000 windows");
    }

    #[test]
    fn follows_a_load_that_becomes_another() {
        let mut governor = Governor::new(2);
        run(&mut governor, &[321e3, 219e3], 1000);
        assert_eq!(governor.number(), 1);
        run(&mut governor, &[25e3, 52e3], 100);
        assert_eq!(governor.number(), 2);
        run(&mut governor, &[321e3, 219e3], 100);
        assert_eq!(governor.number(), 1);
    }

    #[test]
    fn a_load_that_comes_again_finds_the_number_that_was_best() {
        let mut governor = Governor::new(4);
        let rates = [321e3, 219e3, 200e3, 190e3];
        run(&mut governor, &rates, 200);
        governor.window(0.0);
        assert_eq!(
            governor.number(),
            4,
            "all threads are active while there is no load"
        );
        run(&mut governor, &rates, 1);
        assert!(
            run(&mut governor, &rates, 10) > 0.999,
            "one thread at once, and no trial yet"
        );
    }

    #[test]
    fn all_threads_are_active_without_load_and_a_single_thread_always_is() {
        let mut governor = Governor::new(4);
        assert_eq!(governor.number(), 4);
        run(&mut governor, &[100e3; 4], 10);
        assert!(governor.number() < 4);
        governor.window(100.0);
        assert_eq!(governor.number(), 4);
        let mut one = Governor::new(1);
        for _ in 0..1000 {
            assert_eq!(one.number(), 1);
            one.window(100e3);
        }
    }

    #[test]
    fn a_load_that_grows_by_itself_is_not_taken_for_a_gain() {
        let mut governor = Governor::new(2);
        let mut rate = 50e3;
        for _ in 0..200 {
            rate *= 1.01;
            governor.window(rate);
        }
        assert_eq!(governor.best, 2);
    }
}
