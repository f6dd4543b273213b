//! The kinds of faults that a run injects, and how each is undone.

/// A kind of fault, or of change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A policy is edited.
    Edit,
    /// A pod gets other labels.
    Relabel,
    /// A pod is created or deleted. A new pod gets the address of the last deleted one.
    Roll,
    /// The agent is killed (SIGKILL), and started again later.
    Kill,
    /// The agent is terminated (SIGTERM), and started again later.
    Restart,
    /// The agent is suspended (SIGSTOP). It is resumed later, or another agent takes over first.
    Stop,
    /// Another agent takes over.
    Takeover,
    /// Another agent starts to take over, and the first is killed meanwhile.
    TakeoverAndKill,
    /// Another program changes or deletes rules.
    Damage,
    /// A manifest becomes invalid, and is repaired later.
    BrokenFile,
    /// A manifest is empty for a moment while it is rewritten in place.
    EmptyFile,
    /// The disk of the audit log is full for a while.
    AuditFull,
    /// The disk of the state is full for a while.
    StateFull,
    /// The conntrack table is full for a while.
    ConntrackFull,
    /// The API server is unreachable for a while.
    ApiCut,
    /// The audit log is rotated: renamed, and in some cases removed at once.
    Rotate,
    /// The node loses power, and boots later.
    Reboot,
    /// Every processor is busy for a while.
    Busy,
}

/// How a fault is undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undo {
    /// Starts an agent on a node.
    Start(usize),
    /// Resumes the suspended agent of a node.
    Resume(usize),
    /// Lets another agent take over from the suspended one.
    TakeOver(usize),
    /// Frees space on the disk of a node's audit log.
    FreeAudit(usize),
    /// Frees space on the disk of a node's state.
    FreeState(usize),
    /// Removes the entries that filled a node's conntrack table.
    Drain(usize),
    /// Makes the API server reachable again.
    RestoreApi,
    /// Boots a node that lost power.
    Boot(usize),
    /// Repairs the invalid manifest.
    RepairFile,
    /// Ends the load on the processors.
    EndCpuLoad,
}

impl Fault {
    /// All faults. Those that a run injects more often occur several times.
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

    /// The fault with this name, such as `kill` or `audit-full`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// The name, as `--only` takes it.
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
