//! Wrong protocols, by switch: each is what somebody might write who has not understood one of the rules. They live here, around the
//! machines, and nowhere else.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The controller releases when the first apparatus has applied.
    ReleaseEarly,
    /// An apparatus whose hold ran out reopens with its old face, and asks nobody.
    ReopenByClock,
    /// An apparatus that finds its change committed reopens writes as soon as it has applied it itself.
    ReopenAlone,
    /// Old extents are free as soon as the change is committed.
    FreeAtOnce,
    /// An apparatus acknowledges without a look at its fence word.
    NoFenceCheck,
    /// Extents that only fenced apparatuses may still use count as unused.
    NoQuarantine,
    /// The chunk is copied, and nothing is held.
    CopyWithoutHold,
    /// A host's flush is acknowledged when the disks are flushed, before the changes are hardened.
    FlushBeforeHarden,
    /// After a power loss, what was committed and not hardened stands.
    BootIgnored,
    /// Reads go on between copy and switch though a fenced apparatus may still write.
    ReadsNotHeld,
    /// Who joins serves writes at once, whatever the others' tables are.
    JoinerDoesNotWait,
    /// The commit does not care who joined since the holds were asked for.
    MembershipUnchecked,
    /// Held is said while requests that overlap are still in flight.
    NoDrain,
    /// The silent are fenced in the store alone: their fence word is not set.
    WordNotSet,
    /// A fenced apparatus rejoins with requests in flight.
    RejoinWithoutDrain,
    /// A write that had reached its disk before the fence is acknowledged after the rejoining, wherever its range is now.
    ParkedAcknowledged,
    /// The table is switched before the change is committed.
    ApplyBeforeCommit,
    /// Changes are hardened, and the disks they map are not flushed.
    HardenWithoutFlush,
    /// The next controller does not care for apparatuses that have not applied what is committed.
    RecoveryIgnoresBehind,
    /// An apparatus parks requests of the whole volume for a hold of a part of it.
    HoldTooWide,
    /// An apparatus parks reads for a hold of writes.
    ReadsHeld,
    /// A hold goes on when its deadline has passed.
    DeadlineIgnored,
    /// A hold goes on when its connection is lost.
    LossIgnored,
    /// A chunk is copied in two passes.
    CopyTwice,
    /// A change is hardened as soon as it is committed, while everyone still holds.
    HardenInHold,
    /// A job goes on from where its range was when it was planned, though another has moved it since.
    OvertakenGoesOn,
}

impl Fault {
    pub const ALL: [Self; 26] = [
        Self::ReleaseEarly,
        Self::ReopenByClock,
        Self::ReopenAlone,
        Self::FreeAtOnce,
        Self::NoFenceCheck,
        Self::NoQuarantine,
        Self::CopyWithoutHold,
        Self::FlushBeforeHarden,
        Self::BootIgnored,
        Self::ReadsNotHeld,
        Self::JoinerDoesNotWait,
        Self::MembershipUnchecked,
        Self::NoDrain,
        Self::WordNotSet,
        Self::RejoinWithoutDrain,
        Self::ParkedAcknowledged,
        Self::ApplyBeforeCommit,
        Self::HardenWithoutFlush,
        Self::RecoveryIgnoresBehind,
        Self::HoldTooWide,
        Self::ReadsHeld,
        Self::DeadlineIgnored,
        Self::LossIgnored,
        Self::CopyTwice,
        Self::HardenInHold,
        Self::OvertakenGoesOn,
    ];

    /// The promise that it breaks and by whose check it has to be caught, where there is one for just that.
    pub fn breaks(self) -> Option<&'static str> {
        match self {
            Self::HoldTooWide | Self::ReadsHeld => Some("P3"),
            Self::DeadlineIgnored | Self::LossIgnored => Some("P5"),
            Self::CopyTwice => Some("P10"),
            Self::HardenInHold => Some("P11"),
            _ => None,
        }
    }
}
