//! Wrong protocols, by switch: each is what somebody might write who has not understood one of the rules. They live around the
//! machines, the agent, the driver and the data path: in the services that the agent is given and in the seams, and nowhere else.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The controller releases when the first apparatus has applied.
    ReleaseEarly,
    /// An apparatus whose hold ran out reopens with its old version, and asks nobody.
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
    /// A host's flush is acknowledged when the disks are flushed, before the changes are persisted.
    FlushBeforePersist,
    /// After a power loss, what was committed and not persisted stands.
    BootIgnored,
    /// Reads go on between copy and switch though a fenced apparatus may still write.
    ReadsNotHeld,
    /// Who joins or rejoins serves writes at once, whatever the others' tables are.
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
    /// Changes are persisted, and the disks they map are not flushed.
    PersistWithoutFlush,
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
    /// A change is persisted as soon as it is committed, while everyone still holds.
    PersistInHold,
    /// A job goes on from where its range was when it was planned, though another has moved it since.
    OvertakenGoesOn,
    /// The controller works when the first apparatus holds.
    HeldByOne,
    /// A member whose process is stopped counts as one that has ended.
    StoppedCountsAsEnded,
    /// The silent are fenced by their fence word alone: the store does not know.
    FenceNotRecorded,
    /// Of the changes that are persisted together, only the last is marked.
    PersistLastOnly,
    /// A label gets the layout number before the database has it for good.
    LabelFirst,
    /// A change is given up, and the store is not asked whether it is committed.
    CancelNotAsked,
    /// A write is acknowledged without a look at the fence word after it has reached its disk.
    NoLookAfterWrite,
    /// A write is located before it enters the gate.
    LocatedEarly,
    /// A host's flush flushes one disk of the volume's.
    FirstDiskOnly,
    /// A write that was to be durable is acknowledged as any other.
    DurableUnflushed,
    /// A request leaves its lane before its reply is sent.
    LaneLeftEarly,
    /// A disk writes less than it is asked to, and that is taken for all.
    ShortWriteTaken,
    /// A write does not mark its disk, so a flush may pass it over.
    WriteNotMarked,
    /// A hold lacks the last block of its range.
    HoldTooShort,
    /// Applied is said, and the data path goes on with the old table.
    TableNotSwitched,
    /// A controller of another term says that a change is given up, and an apparatus that holds for it asks nobody.
    GivenUpByAnother,
    /// New space is filled before anything claims it.
    ZeroUnclaimed,
    /// A chunk is copied ahead while a write from before its note is in flight.
    NoteWithoutDrain,
    /// A fenced apparatus counts as one that has noted nothing.
    NoteLost,
    /// A chunk is copied ahead while a fenced apparatus may still write.
    AheadWithLateWriter,
    /// A change that a power loss does not take back is committed before its copy is durable.
    CommitBeforeDurable,
    /// Whoever has joined or rejoined forgets to hold all writes before it opens its gate.
    WritesNotHeldAtRejoin,
    /// Who rejoins loads the table that it had read before it asked the store.
    OldTableLoaded,
    /// Applied is said, and the table is switched later.
    AppliedBeforeSwitch,
    /// An apparatus whose hold ran out takes what the store said of the change before for the answer to its cancelling.
    OldAnswerTaken,
    /// An apparatus takes the answer for one generation for that of all that it waits for.
    OtherGenerationsReached,
    /// An apparatus shows its present generation as the oldest in use, whatever its requests in flight use.
    OldTablesForgotten,
}

impl Fault {
    pub const ALL: [Self; 53] = [
        Self::ReleaseEarly,
        Self::ReopenByClock,
        Self::ReopenAlone,
        Self::FreeAtOnce,
        Self::NoFenceCheck,
        Self::NoQuarantine,
        Self::CopyWithoutHold,
        Self::FlushBeforePersist,
        Self::BootIgnored,
        Self::ReadsNotHeld,
        Self::JoinerDoesNotWait,
        Self::MembershipUnchecked,
        Self::NoDrain,
        Self::WordNotSet,
        Self::RejoinWithoutDrain,
        Self::ParkedAcknowledged,
        Self::ApplyBeforeCommit,
        Self::PersistWithoutFlush,
        Self::RecoveryIgnoresBehind,
        Self::HoldTooWide,
        Self::ReadsHeld,
        Self::DeadlineIgnored,
        Self::LossIgnored,
        Self::CopyTwice,
        Self::PersistInHold,
        Self::OvertakenGoesOn,
        Self::HeldByOne,
        Self::StoppedCountsAsEnded,
        Self::FenceNotRecorded,
        Self::PersistLastOnly,
        Self::LabelFirst,
        Self::CancelNotAsked,
        Self::NoLookAfterWrite,
        Self::LocatedEarly,
        Self::FirstDiskOnly,
        Self::DurableUnflushed,
        Self::LaneLeftEarly,
        Self::ShortWriteTaken,
        Self::WriteNotMarked,
        Self::HoldTooShort,
        Self::TableNotSwitched,
        Self::GivenUpByAnother,
        Self::ZeroUnclaimed,
        Self::NoteWithoutDrain,
        Self::NoteLost,
        Self::AheadWithLateWriter,
        Self::CommitBeforeDurable,
        Self::WritesNotHeldAtRejoin,
        Self::OldTableLoaded,
        Self::AppliedBeforeSwitch,
        Self::OldAnswerTaken,
        Self::OtherGenerationsReached,
        Self::OldTablesForgotten,
    ];

    /// The promise that it breaks and by whose check it has to be caught, where there is one for just that.
    pub fn breaks(self) -> Option<&'static str> {
        match self {
            Self::HoldTooWide | Self::ReadsHeld | Self::HoldTooShort => Some("P3"),
            Self::DeadlineIgnored | Self::LossIgnored => Some("P5"),
            Self::ZeroUnclaimed => Some("P6"),
            Self::CopyTwice => Some("P10"),
            Self::NoteWithoutDrain | Self::NoteLost | Self::AheadWithLateWriter => Some("not linearizable"),
            Self::PersistInHold => Some("P11"),
            _ => None,
        }
    }
}
