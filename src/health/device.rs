//! What a GPU's driver tells of it, and what follows for the lanes on it: one table.
//!
//! NVML is the second of two sources: service times tell slow from usual, NVML tells why, and what no service time can, that a device is
//! gone. It *triggers*: a fence declares what is in flight erased then and there, and whatever the code can bring back is decoded before any
//! timer would have noticed. But NVML may lie, hang or be absent, so nothing of it makes a lane healthy: only work does, and checked canaries.
//!
//! Sources of the table of Xids: NVIDIA's Xid catalog (immediate action of each), the lists of its Kubernetes device plugin (ignored ones) and of
//! DCGM's health checks, read in 2026. Where they disagree (109: the plugin ignores it, the catalog says to reset the GPU) the graver wins if the GPU must be reset, because a lane
//! that is fenced for nothing costs half a minute, and one that is not costs wrong or late answers. Xids that mean a broken *program* (13, 31, 43, 45 …) may be
//! another tenant's, so they only ask for proof.

use std::fmt;

/// Something that the driver tells of a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// An Xid event.
    Xid(u64),
    /// The GPU does not answer any more (`NVML_ERROR_GPU_IS_LOST`), or is no longer among the devices.
    Lost,
    /// It answers only that it must be reset (`NVML_ERROR_RESET_REQUIRED`).
    ResetRequired,
    /// What would bring it back (field 230), other than nothing.
    Recovery(u32),
    /// A row of its memory is bad and could not be replaced (field 145).
    RowFailed,
    /// A row of its memory is replaced at its next reset (field 144); what runs goes on.
    RowPending,
    /// Its clock is held down by these reasons (bits of NVML's).
    Limited(Throttle),
    /// A job's error says that it is of no use to this process any more; no driver's word, but the same for all lanes of the device.
    Broken,
    /// Threads of this process are stuck in it: one that ran the lane and one that was to open it, or as many that ran it as may be left; of this lane alone.
    Stuck,
}

impl Sign {
    /// Whether another process could use the device and this one cannot.
    pub const fn is_of_process(self) -> bool {
        matches!(self, Sign::Broken | Sign::Stuck)
    }
}

/// Reasons why a clock is held down, as NVML's bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Throttle(u64);

impl Throttle {
    /// Halved or worse by the hardware: `HW_SLOWDOWN`, `HW_THERMAL`, `HW_POWER_BRAKE`.
    const HARD: u64 = 0x8 | 0x40 | 0x80;
    /// Lowered by the driver because of heat: `SW_THERMAL`.
    const HOT: u64 = 0x20;

    /// NVML's bits.
    pub const fn from_bits(bits: u64) -> Self {
        Throttle(bits)
    }

    /// Those of them that are harmful.
    #[must_use]
    pub const fn harmful(self) -> Self {
        Throttle(self.0 & (Throttle::HARD | Throttle::HOT))
    }

    /// Whether jobs will take longer. Being idle, clocks that somebody set, and the usual power cap at full load are no harm.
    pub const fn is_harmful(self) -> bool {
        self.0 & (Throttle::HARD | Throttle::HOT) != 0
    }

    /// The harmful ones, by name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [(0x8, "hw_slowdown"), (0x20, "sw_thermal"), (0x40, "hw_thermal"), (0x80, "hw_power_brake")]
            .into_iter()
            .filter(move |(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| name)
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sign::Xid(xid) => write!(f, "Xid {xid}"),
            Sign::Broken => f.write_str("a fatal error of the device: it needs a new process"),
            Sign::Stuck => f.write_str("this process is stuck in the device: it needs a new one"),
            Sign::Lost => f.write_str("the GPU is lost"),
            Sign::ResetRequired => f.write_str("the GPU must be reset"),
            Sign::RowFailed => f.write_str("a bad row of its memory could not be replaced"),
            Sign::RowPending => f.write_str("a bad row of its memory is replaced at its next reset"),
            Sign::Recovery(action) => write!(f, "the driver asks for recovery action {action}"),
            Sign::Limited(limits) => {
                f.write_str("its clock is held down by")?;
                limits.names().try_for_each(|name| write!(f, " {name}"))
            }
        }
    }
}

/// What is told of a GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// It has happened.
    Happened(Sign),
    /// It is so from now on.
    Begins(Sign),
    /// It is so no more.
    Ends(Sign),
}

/// What follows for the lanes of the GPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consequence {
    /// Out of work at once, what is in flight is erased; canaries decide when it comes back.
    Fence,
    /// The next thing it runs is a canary; what is in flight goes on.
    Prove,
    /// One slow job makes it a straggler, and what is in flight may be decoded at once, as if it were late.
    Suspect,
    /// Told, and nothing more.
    Note,
}

/// The table.
pub const fn consequence(sign: Sign) -> Consequence {
    match sign {
        // 0 is none; 3 (drain peer-to-peer) lets what runs go on.
        Sign::Recovery(0 | 3) | Sign::RowPending => Consequence::Note,
        Sign::Lost | Sign::ResetRequired | Sign::Recovery(_) | Sign::RowFailed | Sign::Broken | Sign::Stuck => {
            Consequence::Fence
        }
        Sign::Limited(limits) => {
            if limits.is_harmful() {
                Consequence::Suspect
            } else {
                Consequence::Note
            }
        }
        Sign::Xid(xid) => of_xid(xid),
    }
}

const fn of_xid(xid: u64) -> Consequence {
    match xid {
        // The catalog's RESET_GPU; 79 fallen off the bus; 48 double-bit error; 64 row remapping failed; 74 NVLink; 54 power cable; 167 to 169 PCIe, WPR and
        // controller halts.
        46
        | 48
        | 54
        | 62
        | 64
        | 74
        | 79
        | 95
        | 109
        | 110
        | 119
        | 120
        | 136
        | 140
        | 143
        | 155
        | 156
        | 158
        | 167..=169 => Consequence::Fence,
        // The catalog's IGNORE, and its follow-ups: 63 row remapping pending, 66 and 67, 92 many corrected errors, 154 recovery action changed, which field 230 tells.
        37 | 38 | 44 | 63 | 66 | 67 | 92 | 93 | 106 | 107 | 121 | 137 | 141 | 152..=154 | 157 | 160 | 161 => {
            Consequence::Note
        }
        // RESTART_APP: a program's context is broken, perhaps ours. What is not in any list is treated so, too.
        _ => Consequence::Prove,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_page() {
        for (sign, expected) in [
            (Sign::Xid(79), Consequence::Fence),
            (Sign::Xid(48), Consequence::Fence),
            (Sign::Xid(109), Consequence::Fence),
            (Sign::Xid(31), Consequence::Prove),
            (Sign::Xid(13), Consequence::Prove),
            (Sign::Xid(4242), Consequence::Prove),
            (Sign::Xid(63), Consequence::Note),
            (Sign::Xid(154), Consequence::Note),
            (Sign::Lost, Consequence::Fence),
            (Sign::ResetRequired, Consequence::Fence),
            (Sign::Recovery(1), Consequence::Fence),
            (Sign::Recovery(3), Consequence::Note),
            (Sign::RowFailed, Consequence::Fence),
            (Sign::RowPending, Consequence::Note),
            (Sign::Limited(Throttle::from_bits(0x40)), Consequence::Suspect),
            (Sign::Limited(Throttle::from_bits(0x1 | 0x4)), Consequence::Note),
        ] {
            assert_eq!(consequence(sign), expected, "{sign}");
        }
    }

    #[test]
    fn limits_are_told_by_name() {
        let limits = Throttle::from_bits(0x1 | 0x20 | 0x80);
        assert_eq!(limits.names().collect::<Vec<_>>(), ["sw_thermal", "hw_power_brake"]);
        assert_eq!(Sign::Limited(limits).to_string(), "its clock is held down by sw_thermal hw_power_brake");
    }
}
