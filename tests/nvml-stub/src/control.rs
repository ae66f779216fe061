//! The control file: what the GPUs are to say, read anew for each call, so that a test changes it while the daemon runs.
//!
//! `key = value` a line. `count = 2` says how many GPUs there are; keys of one GPU begin with its index: `0.ret = 15` (every call about it returns
//! that code: 15 lost, 16 reset required), `0.xid = 3:79` (the event number 3 is Xid 79; each number is told once), `0.wait = 15` (whoever waits for its
//! events gets that code, and those sets of events never anything else), `0.throttle = 0x40`, `0.temp = 71`,
//! `0.recovery = 1`, `0.hang_ms = 5000` (every call about it takes so long), `0.uuid`, `0.pids = 17,18`. `hang_ms` alone is for every call, `init` the code that
//! opening the library returns.

use std::{collections::HashMap, env, fs, thread, time::Duration};

/// Names the file.
const VARIABLE: &str = "PARITYD_NVML_STUB";

/// What the file holds at this moment; empty if there is none.
pub struct Control(HashMap<String, String>);

impl Control {
    pub fn read() -> Self {
        let text = env::var_os(VARIABLE).and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let pair = |line: &str| {
            let (key, value) = line.split_once('=')?;
            Some((key.trim().to_owned(), value.trim().to_owned()))
        };
        Control(text.lines().filter_map(pair).collect())
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        let text = self.text(key)?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    pub fn of(&self, gpu: u32, key: &str) -> Option<u64> {
        self.number(&format!("{gpu}.{key}"))
    }

    pub fn text_of(&self, gpu: u32, key: &str) -> Option<&str> {
        self.text(&format!("{gpu}.{key}"))
    }

    pub fn count(&self) -> u32 {
        self.number("count").map_or(0, |count| count as u32)
    }

    pub fn uuid(&self, gpu: u32) -> String {
        let usual = || format!("GPU-00000000-0000-0000-0000-{gpu:012}");
        self.text_of(gpu, "uuid").map_or_else(usual, str::to_owned)
    }
}

/// Takes as long as the file says that calls take now; a call that hangs goes on as soon as the file no longer says so.
pub fn hang(gpu: Option<u32>) {
    const STEP: Duration = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        let control = Control::read();
        let own = gpu.and_then(|gpu| control.of(gpu, "hang_ms"));
        let limit = Duration::from_millis(own.or_else(|| control.number("hang_ms")).unwrap_or(0));
        if waited >= limit {
            return;
        }
        thread::sleep(STEP);
        waited += STEP;
    }
}
