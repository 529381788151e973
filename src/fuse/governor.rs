//! How many reader threads take requests: found by trying, because no rule knows. Where hosts send many requests at once, a second thread
//! fights the first for the connection's queue; where one waits for each answer, a second one is awake when the first goes to sleep; with
//! more processors still other numbers are best. Pure: rates in, a number out.
//!
//! ```text
//!             patience is over                  a leg                              a leg
//!   Settled ---------------------> Trying ----------------> Comparing ----------------------------> Settled
//!   (the best so far)          (another number)         (the best so far again)    tried was faster: it is
//!                                 |                                                the best now
//!                                 +--- clearly slower: at once ------------------------------------------^
//! ```
//!
//! What is nearly as good is tried again soon, because that costs next to nothing; what is much worse is left alone for long.

/// Windows that a try takes, and what it is compared with.
const LEG: u32 = 6;
/// So many at the end of them count: the first has the switch in it.
const COUNTED: u32 = LEG - 1;
/// A number is better only if it serves so much more than what was served before: less is chance.
const GAIN: f64 = 1.05;
/// And so much of what is served after: a load that grows by itself serves more then. Not all of it, because for a moment the old number
/// profits from how the scheduler has placed threads for the new one.
const KEPT: f64 = 0.97;
/// Serving less than so much of what was served before ends a try.
const LOSS: f64 = 0.85;
/// The first windows of a try do not end it.
const GRACE: u32 = 2;
/// Load that has changed by so much, for as long as a leg, is another load: what was found of it no longer holds.
const OTHER_LOAD: f64 = 1.5;
/// What tries may cost, as a share of what is served: so long is waited after one.
const COST: f64 = 0.01;
/// Windows from the start of a load, or from a finding, to the next try: for some 60 ms after a change the kernel's scheduler has threads
/// share a processor that will not later, and one thread alone looks better than it is, or worse.
const SETTLING: u32 = 14;
/// Windows from a try that has found nothing to the next, at least and at most.
const LEAST_PATIENCE: u32 = 30;
const MOST_PATIENCE: u32 = 640;
/// Below so many requests a second every thread waits for them: nothing is to be gained, and none must wait for a thread.
const QUIET: f64 = 2000.0;
/// What the first load begins with.
const FIRST: usize = 3;
/// Numbers that are tried in turn.
const CANDIDATES: usize = 4;

/// Decides. Fed with the rate of each window, in requests a second.
#[derive(Debug)]
pub(super) struct Governor {
    most: usize,
    best: usize,
    quiet: bool,
    /// Which of the candidates is tried next.
    candidate: usize,
    patience: u32,
    stage: Stage,
    windows: u32,
    counted: f64,
    rate: f64,
    /// What the try has cost, in windows.
    cost: f64,
    /// Windows in a row in which the load looked like another.
    strange: u32,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Settled,
    Trying { number: usize, before: f64 },
    Comparing { number: usize, before: f64, tried: f64 },
}

impl Governor {
    /// For at most so many threads, at least one.
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self {
            most,
            best: most.min(FIRST),
            quiet: true,
            candidate: 0,
            patience: SETTLING,
            stage: Stage::Settled,
            windows: 0,
            counted: 0.0,
            rate: 0.0,
            cost: 0.0,
            strange: 0,
        }
    }

    /// How many threads are to take requests now.
    pub(super) fn number(&self) -> usize {
        match self.stage {
            _ if self.quiet => self.most,
            Stage::Trying { number, .. } => number,
            Stage::Settled | Stage::Comparing { .. } => self.best,
        }
    }

    /// A window has ended in which so many requests a second were served.
    pub(super) fn window(&mut self, rate: f64) {
        if rate < QUIET {
            *self = self.at_rest();
            return;
        }
        if self.quiet || self.is_other_load(rate) {
            *self = Self {
                quiet: false,
                rate,
                ..self.at_rest()
            };
            return;
        }
        self.windows += 1;
        let length = match self.stage {
            Stage::Settled => self.patience,
            Stage::Trying { .. } | Stage::Comparing { .. } => LEG,
        };
        if let Stage::Trying { before, .. } = self.stage {
            self.cost += 1.0 - rate / before;
        }
        if self.windows + COUNTED > length {
            self.counted += rate;
        }
        if self.is_lost(rate) {
            (self.windows, self.counted, self.stage) = (0, 0.0, Stage::Settled);
            self.nothing_found();
        } else if self.windows == length {
            let mean = self.counted / f64::from(COUNTED);
            (self.windows, self.counted) = (0, 0.0);
            self.stage = self.after(mean);
        }
    }

    /// Knows nothing of a load but what was best last: hosts come and go, and mostly want the same again.
    fn at_rest(&self) -> Self {
        Self {
            best: self.best,
            ..Self::new(self.most)
        }
    }

    fn is_other_load(&mut self, rate: f64) -> bool {
        let changed = rate > self.rate * OTHER_LOAD || rate * OTHER_LOAD < self.rate;
        let strange = changed && matches!(self.stage, Stage::Settled);
        self.strange = if strange { self.strange + 1 } else { 0 };
        self.strange == LEG
    }

    fn is_lost(&self, rate: f64) -> bool {
        matches!(self.stage, Stage::Trying { before, .. } if self.windows > GRACE && rate < before * LOSS)
    }

    fn after(&mut self, mean: f64) -> Stage {
        match self.stage {
            Stage::Settled => {
                self.rate = mean;
                let before = mean;
                self.other()
                    .map_or(Stage::Settled, |number| Stage::Trying { number, before })
            }
            Stage::Trying { number, before } => Stage::Comparing {
                number,
                before,
                tried: mean,
            },
            Stage::Comparing {
                number,
                before,
                tried,
            } => {
                self.judge(number, tried, before, mean);
                Stage::Settled
            }
        }
    }

    /// What to try next: one less, one more, one alone and what a load begins with, which may be best where both neighbours are worse.
    fn other(&self) -> Option<usize> {
        let candidates: [usize; CANDIDATES] = [1, self.best + 1, self.best - 1, FIRST];
        let fits = |number: &usize| (1..=self.most).contains(number) && *number != self.best;
        let turned = candidates.iter().cycle().skip(self.candidate);
        turned.take(CANDIDATES).copied().find(fits)
    }

    fn judge(&mut self, number: usize, tried: f64, before: f64, after: f64) {
        if tried > before * GAIN && tried > after * KEPT {
            (self.best, self.rate) = (number, tried);
            (self.cost, self.patience) = (0.0, SETTLING);
        } else {
            self.rate = after;
            self.nothing_found();
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between two small numbers"
    )]
    fn nothing_found(&mut self) {
        self.candidate = (self.candidate + 1) % CANDIDATES;
        let fair = self.cost / COST;
        self.cost = 0.0;
        self.patience = fair.clamp(LEAST_PATIENCE.into(), MOST_PATIENCE.into()) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs so many windows of a load that is served at these rates by 1, 2, … threads, with up to 2 % of noise. Answers how much was
    /// served, as a share of what the best number would have served.
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
    fn finds_the_best_number_wherever_it_is_and_tries_cost_little() {
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

    /// After a try of one thread the scheduler has made room, and for a while two serve as much.
    #[test]
    fn what_the_old_number_profits_from_a_try_does_not_hide_what_was_found() {
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
    fn what_is_much_worse_is_tried_seldom_and_what_is_nearly_as_good_often() {
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

    /// While a load is new, one thread shares the host's processor: it looks twice as good as it will be.
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
            "everybody waits while there is nothing to do"
        );
        run(&mut governor, &rates, 1);
        assert!(
            run(&mut governor, &rates, 10) > 0.999,
            "one at once, and nothing tried yet"
        );
    }

    #[test]
    fn everybody_waits_when_it_is_quiet_and_one_thread_is_one() {
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
    fn a_load_that_grows_by_itself_is_not_taken_for_success() {
        let mut governor = Governor::new(2);
        let mut rate = 50e3;
        for _ in 0..200 {
            rate *= 1.01;
            governor.window(rate);
        }
        assert_eq!(governor.best, 2);
    }
}
