//! What can go wrong in a run, and what ends it.

/// A kind of fault, or of change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A policy is edited.
    Edit,
    /// A pod gets other labels.
    Relabel,
    /// A pod comes or goes; a new one has the address of the last that went.
    Roll,
    /// The agent is killed, and started again later.
    Kill,
    /// The agent ends in order, and is started again later.
    Restart,
    /// The agent is stopped. It goes on later, or another takes over first.
    Stop,
    /// Another agent takes over.
    Takeover,
    /// Another agent takes over, and the first is killed meanwhile.
    TakeoverAndKill,
    /// Another program changes or deletes rules.
    Damage,
    /// A manifest breaks, and is mended later.
    BrokenFile,
    /// A manifest is empty while it is written.
    EmptyFile,
    /// The disk of the audit log is full for a while.
    AuditFull,
    /// The disk of the state is full for a while.
    StateFull,
    /// The table of connections is full for a while.
    ConntrackFull,
    /// The API server is cut off for a while.
    ApiCut,
    /// The audit log is renamed, or also removed at once.
    Rotate,
    /// The node is switched off, and boots later.
    Reboot,
    /// Every processor is busy for a while.
    Busy,
}

/// What ends a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undo {
    /// Starts the agent of a node.
    Start(usize),
    /// Has the stopped agent of a node go on.
    GoOn(usize),
    /// Another agent takes over from the stopped one.
    TakeOver(usize),
    /// Makes room on a node's disk for the audit log.
    FreeAudit(usize),
    /// Makes room on a node's disk for the state.
    FreeState(usize),
    /// Makes room in a node's table of connections.
    Drain(usize),
    /// Has the API server answer again.
    ApiBack,
    /// Starts a node that was switched off.
    Boot(usize),
    /// Mends the file that is broken.
    Mend,
    /// Lets processors rest.
    Rest,
}

impl Fault {
    /// All, the frequent ones several times.
    pub const ALL: [Self; 26] = [
        Self::Edit,
        Self::Edit,
        Self::Edit,
        Self::Relabel,
        Self::Relabel,
        Self::Roll,
        Self::Roll,
        Self::Roll,
        Self::Kill,
        Self::Kill,
        Self::Restart,
        Self::Stop,
        Self::Takeover,
        Self::TakeoverAndKill,
        Self::Damage,
        Self::Damage,
        Self::BrokenFile,
        Self::EmptyFile,
        Self::AuditFull,
        Self::StateFull,
        Self::ConntrackFull,
        Self::ApiCut,
        Self::ApiCut,
        Self::Rotate,
        Self::Reboot,
        Self::Busy,
    ];

    /// The kind of this name, such as `kill` or `audit-full`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Edit => "edit",
            Self::Relabel => "relabel",
            Self::Roll => "roll",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Takeover => "takeover",
            Self::TakeoverAndKill => "takeover-and-kill",
            Self::Damage => "damage",
            Self::BrokenFile => "broken-file",
            Self::EmptyFile => "empty-file",
            Self::AuditFull => "audit-full",
            Self::StateFull => "state-full",
            Self::ConntrackFull => "conntrack-full",
            Self::ApiCut => "api-cut",
            Self::Rotate => "rotate",
            Self::Reboot => "reboot",
            Self::Busy => "busy",
        }
    }
}
