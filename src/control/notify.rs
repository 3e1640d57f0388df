//! What the service manager is told: systemd's notify protocol, sd_notify(3).
//!
//! A manager that wants to be told puts the name of a datagram socket into the environment, and for
//! how long it believes in a silent process. Both are for main alone: they are taken out of the
//! environment before anything is forked, so that no child and no command speaks in its place.
//!
//! Each message goes through a socket of its own. None is ever waited for longer than a moment, and
//! a manager that can't be reached is a warning and nothing else.

use crate::sys::{clock, process};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a manager that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the longest status: the manager shows it in a line.
const STATUS_MAX: usize = 500;

/// What was found in the environment; `None` before anybody has looked.
static MANAGER: Mutex<Option<Manager>> = Mutex::new(None);

struct Manager {
    address: SocketAddr,
    /// How often it has to hear that we live, and when it has to next.
    watchdog: Option<(Duration, Duration)>,
    has_complained: bool,
}

/// A manager that wants to hear of us more often than this is not humoured: it would keep a processor busy.
const OFTEN: Duration = Duration::from_millis(10);

/// Takes over what the environment says of a manager. The process must have a single thread.
pub(crate) fn take_over() {
    let take = |key| process::take_environment(key);
    let [socket, timeout, pid] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].map(take);
    // A second run of this process: what the first has taken is still true.
    let Some(socket) = socket.filter(|name| !name.is_empty()) else { return };
    let text = |value: std::ffi::OsString| value.into_string().ok();
    let is_ours = pid.is_none_or(|pid| text(pid) == Some(std::process::id().to_string()));
    let timeout = timeout.and_then(text).and_then(|timeout| timeout.parse().ok());
    let timeout = timeout.filter(|micros| *micros > 0 && is_ours).map(Duration::from_micros);
    match address(socket.as_bytes()) {
        Ok(address) => {
            let watchdog = timeout.map(|timeout| ((timeout / 2).max(OFTEN), clock::now()));
            *manager() = Some(Manager { address, watchdog, has_complained: false });
        }
        Err(error) => log::warn!(
            "NOTIFY_SOCKET={}: {error}; the service manager is not told how it goes",
            socket.display()
        ),
    }
}

/// A path, or, with an `@` in front, a name that stands in no file system.
fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        _ => Err(io::Error::other("neither a path nor an abstract name")),
    }
}

fn manager() -> MutexGuard<'static, Option<Manager>> {
    MANAGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the manager, if there is one; `words` are lines of the protocol.
pub(crate) fn tell(words: impl FnOnce() -> String) {
    if let Some(manager) = &mut *manager() {
        manager.tell(&words());
    }
}

/// A line that says how it goes, for people.
pub(crate) fn status(text: &str) -> String {
    let text = crate::log::escape(text);
    let end = (0..=STATUS_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    format!("STATUS={}", &text[..end.unwrap_or(0)])
}

/// When a manager with a watchdog has to hear from us next. `None`: never.
pub(crate) fn next_alarm() -> Option<Duration> {
    let manager = manager();
    manager.as_ref()?.watchdog.map(|(_, next)| next)
}

/// Tells a watchdog that we live, if it is time to; and how it goes, which costs no wake-up then.
/// To be called by who would hang if anybody does.
pub(crate) fn ping(now: Duration, how: impl FnOnce() -> String) {
    let mut manager = manager();
    let Some(manager) = &mut *manager else { return };
    let Some((interval, next)) = &mut manager.watchdog else { return };
    if *next <= now {
        *next = now + *interval;
        manager.tell(&format!("WATCHDOG=1\n{}", status(&how())));
    }
}

impl Manager {
    fn tell(&mut self, words: &str) {
        if let Err(error) = self.send(words)
            && !std::mem::replace(&mut self.has_complained, true)
        {
            log::warn!("the service manager can't be told how it goes: {error} (said once)");
        }
    }

    fn send(&self, words: &str) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.send_to_addr(words.as_bytes(), &self.address).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_abstract_names() {
        let path = address(b"/run/systemd/notify").unwrap();
        assert_eq!(path.as_pathname(), Some(std::path::Path::new("/run/systemd/notify")));
        let name = address(b"@/org/freedesktop/x").unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"/org/freedesktop/x"[..]));
        for wrong in [&b"vsock:2:1234"[..], b"relative", b""] {
            assert!(address(wrong).is_err());
        }
        assert!(address(&[b'/'; 200]).is_err());
    }

    #[test]
    fn a_status_is_one_line_of_bounded_length() {
        assert_eq!(status("a\nb"), "STATUS=a\\nb");
        assert!(status(&"ü".repeat(1000)).len() <= STATUS_MAX + "STATUS=".len());
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for_for_ever() {
        let name = format!("procsig-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let full = UnixDatagram::bind_addr(&address).unwrap();
        let manager = Manager { address, watchdog: None, has_complained: false };
        let error = std::iter::repeat_with(|| manager.send("STATUS=x"))
            .take(10_000)
            .find_map(Result::err)
            .expect("its queue has an end");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(full);
        assert!(manager.send("STATUS=x").is_err());
    }
}
