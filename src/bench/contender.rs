//! The policies that are compared, all on the same number of lanes.

use std::time::Duration;

use crate::{
    code::{Kind, Spec},
    config::{Grace, Hedge, Placement, Policy, PolicyKind, Rerun},
    health::Rules,
    job::Role,
};

/// One policy with its lanes and its code.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    /// What the tables call it.
    pub(super) name: &'static str,
    pub(super) policy: Policy,
    pub(super) health: Rules,
    pub(super) code: Option<Spec>,
    pub(super) roles: Vec<Role>,
    /// Time of a parity job over that of a data job.
    pub(super) parity_cost: f64,
}

/// What the equal-resources baseline is called.
pub(super) const BASELINE: &str = "none";
/// What the targets are about: in-job hedges and health, which are on wherever the policy allows them, in the shipped configuration too.
pub(super) const DEFAULT: &str = "hedged";

/// All policies under k data slots, on `lanes` lanes each.
pub(super) fn all(k: usize, lanes: usize) -> Vec<Contender> {
    let plain = |name, policy: Policy| Contender {
        name,
        health: rules(&policy),
        policy,
        code: None,
        roles: vec![Role::Base; lanes],
        parity_cost: 1.0,
    };
    let usual = |kind| Policy::usual(kind, Placement::Dedicated);
    let mut all = vec![
        plain(BASELINE, Policy { health: false, ..usual(PolicyKind::None) }),
        plain("replicated", Policy { health: false, ..usual(PolicyKind::Replicated) }),
        plain("idle_copy", Policy { hedge: Hedge::None, ..usual(PolicyKind::IdleCopy) }),
        plain("hedged, by time", Policy { hedge: Hedge::Time, ..usual(PolicyKind::Hedged) }),
        plain(DEFAULT, usual(PolicyKind::Hedged)),
    ];
    all.extend(coded(k, lanes));
    all
}

/// Those that need a code.
pub(super) fn coded(k: usize, lanes: usize) -> Vec<Contender> {
    // As `devices = "auto"` splits lanes.
    let parity = ((2 * lanes + k + 1) / (2 * (k + 1))).max(1);
    let split = [vec![Role::Base; lanes - parity], vec![Role::Parity; parity]].concat();
    let with = |name, policy: Policy, kind, roles| Contender {
        name,
        health: rules(&policy),
        policy,
        code: Some(Spec::of(kind, k, 1)),
        roles,
        parity_cost: 1.0,
    };
    let parm = Policy {
        health: false,
        hedge: Hedge::None,
        grace: Grace::None,
        rerun: Rerun::AfterDecode,
        ..Policy::usual(PolicyKind::Coded, Placement::Dedicated)
    };
    let usual = |kind| Policy::usual(kind, Placement::Dedicated);
    // The small model costs a k-th of the base model, and each query has a job of it.
    let backed_up =
        |name, policy, roles| Contender { parity_cost: 1.0 / k as f64, ..with(name, policy, Kind::Compact, roles) };
    let pooled = |kind| Policy::usual(kind, Placement::Pooled);
    vec![
        with("ParM", parm, Kind::Sum, split.clone()),
        backed_up("approximate", usual(PolicyKind::Approximate), split.clone()),
        backed_up("approximate, pooled", pooled(PolicyKind::Approximate), vec![Role::Both; lanes]),
        with("coded, dedicated", usual(PolicyKind::Coded), Kind::Mux, split),
        with("coded, pooled", pooled(PolicyKind::Coded), Kind::Mux, vec![Role::Both; lanes]),
        backed_up("adaptive", pooled(PolicyKind::Adaptive), vec![Role::Both; lanes]),
    ]
}

/// Health rules of a policy: none of them with `health = "none"`.
fn rules(policy: &Policy) -> Rules {
    let usual = Rules::default();
    Rules {
        hang: usual.hang.filter(|_| policy.health),
        stragglers: policy.health,
        // A lane that crashed is looked for every second at least, so that a run of a minute shows its return.
        canary_max: Duration::from_secs(1),
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_split_as_for_devices_auto() {
        for (k, parity) in [(2, 6), (4, 4)] {
            let dedicated = coded(k, 18).into_iter().find(|each| each.name == "ParM").unwrap();
            let lanes = dedicated.roles.iter().filter(|role| **role == Role::Parity).count();
            assert_eq!((lanes, dedicated.roles.len()), (parity, 18));
        }
    }
}
