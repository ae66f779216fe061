//! What is wrong with a configuration, told all at once: the operator mends a file in one go, not one start at a time.
//!
//! A fault names its place, key, value and the rule that it breaks. A warning describes a configuration that works, but not as well as
//! its author may think.

use std::{fmt, io, path::Path, time::Duration};

use super::print::millis;
use crate::shortage::{is_short, more};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The file, or what else the value came from.
    pub source: String,
    /// Its line, if the fault has one.
    pub line: Option<usize>,
    /// The key, with the tables that hold it; empty if the text is no TOML.
    pub key: String,
    /// The value as written, if the key is there.
    pub value: Option<String>,
    /// What is expected instead.
    pub rule: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            f.write_str(&self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.rule)
    }
}

/// Everything that is wrong with one configuration, in the order of its lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigFaults {
    faults: Vec<ConfigFault>,
    may_pass: bool,
}

impl ConfigFaults {
    /// `Ok` if there are no faults; else all of them, sorted by line.
    pub(super) fn none_of(mut faults: Vec<ConfigFault>) -> Result<(), Self> {
        faults.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
        if faults.is_empty() { Ok(()) } else { Err(ConfigFaults { faults, may_pass: false }) }
    }

    /// A single fault that has no line.
    pub(super) fn one(source: &str, key: &str, rule: String) -> Self {
        let (source, key) = (source.to_owned(), key.to_owned());
        ConfigFaults { faults: vec![ConfigFault { source, line: None, key, value: None, rule }], may_pass: false }
    }

    /// A file that cannot be read.
    pub(super) fn unread(file: &Path, error: &io::Error) -> Self {
        let next = if is_short(error) {
            more(error)
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "make it readable for the user that parityd runs as"
        } else {
            "name the configuration with --config"
        };
        let rule = format!("cannot be read: {error}; {next}");
        ConfigFaults { may_pass: is_short(error), ..ConfigFaults::one(&file.display().to_string(), "", rule) }
    }

    /// Whether time may mend it: the system had no means to read the file.
    pub const fn may_pass(&self) -> bool {
        self.may_pass
    }

    /// The faults in order.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigFault> {
        self.faults.iter()
    }
}

impl fmt::Display for ConfigFaults {
    /// One fault a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{fault}")?;
        }
        Ok(())
    }
}

/// Why a valid configuration may disappoint. Logged at start and printed by `check`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Not every member of a stripe has a fault domain of its own.
    #[error(
        "fewer fault domains ({domains}) than a stripe has slots ({slots}): stripes may stay short, and parity wait or be \
         dropped (see parityd_stripes_total)"
    )]
    Unprotected {
        /// Distinct fault domains of the lanes.
        domains: usize,
        /// k + r.
        slots: usize,
    },
    /// `devices = "auto"` found too few GPUs for the code.
    #[error(
        "devices = \"auto\" found {gpus} GPUs, fewer than k + r = {k} + {r}: all of them hold the base model and the policy is \
         \"none\"; lost predictions are run again, not decoded"
    )]
    TooFewGpus {
        /// GPUs that were found.
        gpus: usize,
        /// Data slots.
        k: usize,
        /// Parity slots.
        r: usize,
    },
    /// The configuration is meant for another build.
    #[error("lane {lane}: device = \"{device}\" needs a build with `--features cuda`; this one will not start with it")]
    NeedsCuda {
        /// The first lane that does.
        lane: u16,
        /// Its device.
        device: String,
    },
    /// A stop may cut off queries that have time left.
    #[error(
        "drain_ms = {} is less than deadline_ms = {}: a stop may refuse queries that it had admitted",
        millis(*.drain),
        millis(*.deadline)
    )]
    ShortDrain {
        /// `[http] drain_ms`
        drain: Duration,
        /// `deadline_ms`
        deadline: Duration,
    },
    /// A lane is found to hang when its queries have no time left.
    #[error(
        "hang_ms = {} is not less than deadline_ms = {}: what a lane that hangs has taken is not run again in time, unless it was late before",
        millis(*.hang),
        millis(*.deadline)
    )]
    LateHang {
        /// `[health] hang_ms`
        hang: Duration,
        /// `deadline_ms`
        deadline: Duration,
    },
    /// Redundancy never runs.
    #[error(
        "reserve = {reserve} with {base} lanes that hold the base model: redundancy that runs only while more than {reserve} of them idle never runs"
    )]
    NoLaneIdles {
        /// `reserve`
        reserve: usize,
        /// Lanes that hold the base model.
        base: usize,
    },
    /// One device is several fault domains by name.
    #[error(
        "lanes {first} and {second} are on one GPU and have fault domains of their own: if it fails, both do, and what one of them lost is not decoded"
    )]
    SplitGpu {
        /// The lower lane id.
        first: u16,
        /// The higher lane id.
        second: u16,
    },
    /// A lane's core is not one of this process's.
    #[error("lane {lane}: core = {core} is not there or not for this process: the lane is not pinned")]
    NoSuchCore {
        /// The lane.
        lane: u16,
        /// Its core.
        core: usize,
    },
    /// Two lanes are pinned to one core, so a stall of one is a stall of both.
    #[error("lanes {first} and {second} are both pinned to core {core}: they slow each other down")]
    SharedCore {
        /// The lower lane id.
        first: u16,
        /// The higher lane id.
        second: u16,
        /// The core.
        core: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_which_there_are_no_means_may_be_read_later() {
        let unread = |error: io::Error| ConfigFaults::unread(Path::new("config.toml"), &error);
        let lack = unread(io::Error::from_raw_os_error(24));
        assert!(lack.may_pass() && lack.to_string().ends_with("raise LimitNOFILE= (ulimit -n)"), "{lack}");
        let absent = unread(io::ErrorKind::NotFound.into());
        assert!(!absent.may_pass() && absent.to_string().ends_with("name the configuration with --config"), "{absent}");
    }
}
