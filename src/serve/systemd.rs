//! The way of words to systemd.
//!
//! systemd reads from a socket that holds about ten of them, and may have other things to do. Whoever writes into a full one waits, so a thread of its own
//! does, and neither sockets nor queries wait with it. What has not been told yet is kept once: of two status lines only the later is of use.

use std::{env, io, sync::Arc, thread, time::Duration};

use parking_lot::{Condvar, Mutex};
use sd_notify::NotifyState;

/// How long the end waits until everything has been told.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What systemd is to hear.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The daemon is ready.
    pub(super) ready: bool,
    /// How it fares.
    pub(super) status: Option<String>,
    /// It lives.
    pub(super) alive: bool,
    /// This process is the daemon from now on.
    pub(super) main: Option<u32>,
    /// The end has begun.
    pub(super) stopping: bool,
}

impl Words {
    /// In the order in which they must be heard: whoever is no longer the main process is not listened to.
    fn states(&self) -> Vec<Vec<NotifyState<'_>>> {
        let status = || self.status.as_deref().map(NotifyState::Status);
        let first = if self.ready { [Some(NotifyState::Ready), status()] } else { [None, status()] };
        let others = [
            self.alive.then_some(NotifyState::Watchdog),
            self.stopping.then_some(NotifyState::Stopping),
            self.main.map(NotifyState::MainPid),
        ];
        let first: Vec<_> = first.into_iter().flatten().collect();
        let others = others.into_iter().flatten().map(|state| vec![state]);
        std::iter::once(first).filter(|first| !first.is_empty()).chain(others).collect()
    }

    fn is_empty(&self) -> bool {
        self.states().is_empty()
    }
}

/// systemd, or nobody.
#[derive(Debug)]
pub(super) struct Systemd {
    /// What it has not been told; `None` without it.
    untold: Option<Arc<Untold>>,
}

#[derive(Debug, Default)]
struct Untold {
    /// And whether something is on its way.
    words: Mutex<(Words, bool)>,
    changed: Condvar,
}

/// Whether somebody who started this process has said where words go. A variable that is set to nothing is not set.
pub(super) fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

impl Systemd {
    /// The one that started this process, if one did.
    pub(super) fn find() -> io::Result<Self> {
        if !is_there() {
            return Ok(Systemd { untold: None });
        }
        let untold = Arc::new(Untold::default());
        let told = Arc::clone(&untold);
        thread::Builder::new().name("systemd".to_owned()).spawn(move || told.tell())?;
        Ok(Systemd { untold: Some(untold) })
    }

    /// Has it told soon, whatever `change` says.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Words)) {
        if let Some(untold) = &self.untold {
            change(&mut untold.words.lock().0);
            untold.changed.notify_all();
        }
    }

    /// Waits until it has been told everything, and not for ever.
    pub(super) fn finish(&self) {
        if let Some(untold) = &self.untold {
            let mut words = untold.words.lock();
            untold.changed.wait_while_for(
                &mut words,
                |(words, on_its_way)| *on_its_way || !words.is_empty(),
                LAST_WORDS,
            );
        }
    }
}

impl Untold {
    /// Tells what there is to tell, for as long as the process lives.
    fn tell(&self) {
        let mut words = self.words.lock();
        loop {
            self.changed.wait_while(&mut words, |(words, _)| words.is_empty());
            let now = std::mem::take(&mut words.0);
            words.1 = true;
            drop(words);
            for states in now.states() {
                if let Err(error) = sd_notify::notify(&states) {
                    tracing::debug!(%error, "systemd was not told");
                }
            }
            words = self.words.lock();
            words.1 = false;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_whose_turn_it_is() {
        assert!(Words::default().is_empty());
        let all = Words { ready: true, status: Some("well".into()), alive: true, main: Some(7), stopping: true };
        let told: Vec<String> = all.states().concat().iter().map(ToString::to_string).collect();
        assert_eq!(told, ["READY=1", "STATUS=well", "WATCHDOG=1", "STOPPING=1", "MAINPID=7"]);
        let line = Words { status: Some("well".into()), ..Words::default() };
        assert_eq!(line.states().len(), 1);
    }

    #[test]
    fn without_systemd_nothing_is_kept_and_nothing_waited_for() {
        let nobody = Systemd { untold: None };
        nobody.tell(|words| words.ready = true);
        nobody.finish();
    }
}
