//! Exit codes: who has to act when the process has ended. Those of sysexits where it has one; a wrong flag is 2, as clap has it.

/// Whoever measures: what was measured is printed, but nothing should be concluded from it. `EX_DATAERR`.
pub const VOID: u8 = 65;

/// Us: a panic, or arithmetic that failed although everything was checked. `EX_SOFTWARE`.
pub const BUG: u8 = 70;

/// Time, or another process: a device did not open or is not what it was, a port was taken, the system was short of something. `EX_TEMPFAIL`.
pub const MAY_PASS: u8 = 75;

/// The operator: configuration, weights, rights or data do not allow it. `EX_CONFIG`.
pub const CANNOT_START: u8 = 78;

/// Nobody: Ctrl-C ended a measurement. 128 + SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;
