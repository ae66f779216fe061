//! `[deployment.policy]`: what runs besides each query once, and when.

use std::{sync::Arc, time::Duration};

use crate::{
    code::{Code, Kind, Stacked},
    query::Confidence,
};

/// `[deployment.policy]`
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `kind`
    pub kind: PolicyKind,
    /// `placement`
    pub placement: Placement,
    /// `health`: whether lanes that hang or are slower than the others get less work or none. A lane that lost a job stops pulling either way.
    pub health: bool,
    /// `hedge`: how a job is found to be late, so that its query is run once more.
    pub hedge: Hedge,
    /// `hedge_after`: a job is late after this many times its expected time, where it does not tell how far it is.
    pub hedge_after: f64,
    /// `parity`: which stripes get their parity jobs.
    pub parity: ParityWhen,
    /// `reserve`: lanes that redundancy leaves idle, at least.
    pub reserve: usize,
    /// `grace`
    pub grace: Grace,
    /// `rerun`: when a lost job is run again.
    pub rerun: Rerun,
    /// `min_confidence`: a reconstruction with less is held back, unless its request says otherwise.
    pub min_confidence: Confidence,
    /// `default_prediction`: answered at the deadline, as a last resort, if present.
    pub default_prediction: Option<Vec<f32>>,
}

/// `kind` of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// No redundancy (rescue of lost jobs remains).
    None,
    /// Every query twice; the copy is worth as much as the first.
    Replicated,
    /// Every query a second time, on lanes that would be idle.
    IdleCopy,
    /// A second run for jobs that are late, and for nothing else.
    Hedged,
    /// Stripes and parity models.
    Coded,
    /// Every query by itself through a small model besides (`compact`).
    Approximate,
    /// Copies while most lanes are idle, parity while some are, hedges always.
    Adaptive,
}

impl Policy {
    /// The policy of a configuration that says no more than its kind and its placement.
    pub const fn usual(kind: PolicyKind, placement: Placement) -> Self {
        let parity = match placement {
            Placement::Dedicated => ParityWhen::Always,
            Placement::Pooled => ParityWhen::Idle,
        };
        Policy {
            kind,
            placement,
            health: true,
            hedge: kind.usual_hedge(),
            hedge_after: 1.2,
            parity,
            reserve: 1,
            grace: Grace::Auto,
            rerun: Rerun::AtOnce,
            min_confidence: Confidence::NONE,
            default_prediction: None,
        }
    }

    /// What stripes follow, where `code` is the one whose parity models are loaded. The small model of `compact` needs no stripe-mates: where a policy is
    /// free to choose, each query has a job of its own, which costs a k-th and waits for nobody.
    pub fn striped(&self, code: Arc<dyn Code>) -> Arc<dyn Code> {
        let adapts = self.kind == PolicyKind::Adaptive && code.kind() == Kind::Compact;
        if self.kind == PolicyKind::Approximate || adapts { Arc::new(Stacked::backup()) } else { code }
    }

    /// Whether lanes without the base model can answer queries by themselves.
    pub fn answers_alone(&self) -> bool {
        self.kind == PolicyKind::Approximate && self.placement == Placement::Dedicated
    }
}

impl PolicyKind {
    /// All of them with their words.
    pub const WORDS: [(&'static str, PolicyKind); 7] = [
        ("none", PolicyKind::None),
        ("replicated", PolicyKind::Replicated),
        ("idle_copy", PolicyKind::IdleCopy),
        ("hedged", PolicyKind::Hedged),
        ("coded", PolicyKind::Coded),
        ("approximate", PolicyKind::Approximate),
        ("adaptive", PolicyKind::Adaptive),
    ];

    /// Its word.
    ///
    /// # Panics
    ///
    /// If it has none, which a test rules out.
    pub fn as_str(self) -> &'static str {
        let word = PolicyKind::WORDS.into_iter().find(|(_, kind)| *kind == self);
        word.expect("every kind has a word").0
    }

    /// Whether it needs parity models.
    pub const fn is_coded(self) -> bool {
        match self {
            PolicyKind::Coded | PolicyKind::Approximate | PolicyKind::Adaptive => true,
            PolicyKind::None | PolicyKind::Replicated | PolicyKind::IdleCopy | PolicyKind::Hedged => false,
        }
    }

    /// How late jobs are found unless `hedge` says so.
    pub const fn usual_hedge(self) -> Hedge {
        match self {
            PolicyKind::None | PolicyKind::Replicated => Hedge::None,
            PolicyKind::IdleCopy
            | PolicyKind::Hedged
            | PolicyKind::Coded
            | PolicyKind::Approximate
            | PolicyKind::Adaptive => Hedge::Progress,
        }
    }
}

/// `hedge`: how a job is found to be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedge {
    /// Not at all.
    None,
    /// By the time since it started alone.
    Time,
    /// By what it reports while it runs; by the time where it reports nothing.
    Progress,
}

impl Hedge {
    /// All of them with their words.
    pub const WORDS: [(&'static str, Hedge); 3] =
        [("progress", Hedge::Progress), ("time", Hedge::Time), ("none", Hedge::None)];
}

/// `parity`: which stripes get their parity jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParityWhen {
    /// Every full one, after the data jobs that wait.
    Always,
    /// Full ones for which a lane would be idle.
    Idle,
    /// Those with a member that is late.
    Late,
}

impl ParityWhen {
    /// All of them with their words.
    pub const WORDS: [(&'static str, ParityWhen); 3] =
        [("always", ParityWhen::Always), ("idle", ParityWhen::Idle), ("late", ParityWhen::Late)];
}

/// `placement` of base and parity models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Base and parity models on separate devices.
    Dedicated,
    /// Every lane holds both.
    Pooled,
}

/// `grace`: how long after admission a reconstruction waits for the direct answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grace {
    /// `"none"`: not at all.
    None,
    /// `"auto"`: the larger of 1.15 x the expected time and the expected time + 5 ms.
    Auto,
    /// `grace_ms = n`: this long.
    Fixed(Duration),
}

/// `rerun`: when a job that was lost is run again on another lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerun {
    /// `"at_once"`: in parallel with the decode; whichever is first answers.
    AtOnce,
    /// `"after_decode"`: only once the stripe can no longer decode it, or has not for `stripe_fill_ms` and two expected times.
    AfterDecode,
}
