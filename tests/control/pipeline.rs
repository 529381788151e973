//! Changes run as a pipeline.

use super::*;
use apparatus::rpc::written::Written;

/// Moves a volume extent by extent.
struct Moves {
    volume: VolumeId,
    to: DiskId,
    next: u64,
    len: u64,
    begun: u64,
    worked: Vec<u64>,
    ended: Vec<Result<Generation, String>>,
    on_work: Box<dyn FnMut(u64) -> Result<(), String>>,
    longest: Duration,
}

impl Moves {
    fn new(volume: VolumeId, to: DiskId, len: u64) -> Self {
        let (worked, ended, on_work) = (Vec::new(), Vec::new(), Box::new(|_| Ok(())));
        Self {
            volume,
            to,
            next: 0,
            len,
            begun: 0,
            worked,
            ended,
            on_work,
            longest: Duration::ZERO,
        }
    }
}

impl ChangePipeline for Moves {
    fn next(&mut self, prepare: &mut Prepare<'_>) -> Result<Option<NewChange>> {
        assert!(prepare.disks.get(self.to).is_some());
        if self.next == self.len {
            return Ok(None);
        }
        let at = self.next;
        self.next += 1;
        let mut new = change("move", vec![map(self.volume, at, self.to, 1 + at, 1)]);
        new.delta.from = prepare.from;
        let byte = |extent: u64| apparatus::model::units::VolumeOffset(extent * EXTENT.bytes());
        new.spans = vec![Span {
            volume: self.volume,
            start: byte(at),
            end: byte(at + 1),
        }];
        Ok(Some(new))
    }

    fn work(&mut self, _written: &Written) -> Result<(), String> {
        assert_eq!(self.ended.len() as u64, self.begun, "the one before has ended");
        self.worked.push(self.begun);
        (self.on_work)(self.begun)
    }

    fn ended(&mut self, outcome: &Outcome, hold: Duration) -> Result<()> {
        self.begun += 1;
        self.longest = self.longest.max(hold);
        self.ended.push(match outcome {
            Outcome::Finished { generation, .. } => Ok(*generation),
            other => Err(format!("{other:?}")),
        });
        Ok(())
    }
}

#[test]
fn a_pipeline_completes_in_order() {
    let (pool, _, d2, volume) = pool_with_volume();
    let (a, b) = (pool.apparatus("a"), pool.apparatus("b"));
    let mut controller = pool.controller();
    let before = controller.store().header().unwrap().generation;
    let mut moves = Moves::new(volume, d2, 8);
    controller.run_pipeline(&mut moves).unwrap();
    let expected: Vec<_> = (1..=8).map(|step| Ok(Generation(before.0 + step))).collect();
    assert_eq!(moves.ended, expected);
    assert_eq!(moves.worked, (0..8).collect::<Vec<_>>());
    assert!(moves.longest > Duration::ZERO);
    for each in [&a, &b] {
        assert_eq!(each.path.generation(), Generation(before.0 + 8));
        assert!(each.path.is_open(Span::whole(volume)));
        assert_eq!(each.path.holds(), 0);
    }
    controller.persist().unwrap();
    controller.free().unwrap();
    assert!(!is_quarantined(&pool));
}

#[test]
fn a_pipeline_without_apparatuses_needs_only_the_store() {
    let (pool, _, d2, volume) = pool_with_volume();
    let mut controller = pool.controller();
    let mut moves = Moves::new(volume, d2, 6);
    controller.run_pipeline(&mut moves).unwrap();
    assert_eq!(moves.ended.iter().filter(|end| end.is_ok()).count(), 6);
}

#[test]
fn a_pipeline_gives_up_the_changes_after_a_failed_one() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let mut controller = pool.controller();
    let before = controller.store().header().unwrap().generation;
    let mut moves = Moves::new(volume, d2, 8);
    moves.on_work = Box::new(|index| if index == 2 { Err("broken".into()) } else { Ok(()) });
    moves.next = 4;
    controller.run_pipeline(&mut moves).unwrap();
    let ends: Vec<bool> = moves.ended.iter().map(Result::is_ok).collect();
    assert_eq!(ends, [true, true, false, false]);
    assert!(moves.ended[2].as_ref().is_err_and(|why| why.contains("broken")));
    assert_eq!(moves.worked, [0, 1, 2]);
    until("nothing is held", || a.path.holds() == 0);
    assert_eq!(a.path.generation(), Generation(before.0 + 2));
    assert!(
        controller
            .store()
            .unfinished()
            .unwrap()
            .iter()
            .all(|record| record.state == ChangeState::Committed)
    );
}

#[test]
fn a_pipeline_goes_on_when_a_member_joins_or_falls_silent() {
    let (pool, _, d2, volume) = pool_with_volume();
    let a = pool.apparatus("a");
    let late = std::sync::Arc::new(std::sync::Mutex::new(None));
    let mut controller = pool.controller();
    impatient(&mut controller);
    let before = controller.store().header().unwrap().generation;
    let mut moves = Moves::new(volume, d2, 8);
    let (slot, dir) = (late.clone(), pool.dir.clone());
    let joins = std::sync::Arc::new(pool);
    let joiner = std::sync::Arc::clone(&joins);
    moves.on_work = Box::new(move |index| {
        if index == 1 {
            // A member joins and stays silent: the change is tried again with it, then it is fenced, and the rest goes on.
            slot.lock().unwrap().get_or_insert_with(|| joiner.joined("b"));
        }
        Ok(())
    });
    let begun = Instant::now();
    controller.run_pipeline(&mut moves).unwrap();
    assert!(begun.elapsed() < PATIENCE);
    assert!(moves.ended.iter().all(Result::is_ok), "{:?}", moves.ended);
    assert_eq!(moves.ended.len(), 8);
    assert_eq!(a.path.generation(), Generation(before.0 + 8));
    assert_eq!(controller.fenced(), [name("b")]);
    assert_eq!(joins.dir, dir);
}
