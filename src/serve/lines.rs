//! Writes the log from a thread of its own: its file may be on a file system that is frozen or hangs, and threads that serve
//! hosts do not wait for that. Lines that do not fit into the queue are dropped and counted.

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

/// The most lines that wait to be written, and the longest of them in bytes.
const MOST: usize = 1024;
const LONGEST: usize = 16 << 10;
/// How long the end of the process waits for the last lines.
const PATIENCE: Duration = Duration::from_secs(1);

enum LogMessage {
    Line(Vec<u8>),
    /// The sender is dropped when everything before it has been written.
    End(Sender<()>),
}

/// The sending end of the queue.
pub(super) struct Lines {
    queue: Sender<LogMessage>,
    line: Vec<u8>,
    dropped: u64,
}

impl Lines {
    /// Starts the thread, which writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = bounded(MOST);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&lines, out))?;
        Ok(Self {
            queue,
            line: Vec::new(),
            dropped: 0,
        })
    }

    fn enqueue(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if self.dropped > 0 {
            let notice = format!("({} lines of this log were dropped here)\n", self.dropped);
            line.splice(0..0, notice.into_bytes());
        }
        match self.queue.try_send(LogMessage::Line(line)) {
            Ok(()) => self.dropped = 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped += 1,
        }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = LONGEST.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..room.min(text.len())]);
            if text.len() < part.len() {
                self.line.push(b'\n');
                self.enqueue();
            }
        }
        Ok(bytes.len())
    }

    /// Waits until all earlier lines are written, at most for [`PATIENCE`].
    fn flush(&mut self) -> io::Result<()> {
        let (end, ended) = bounded(0);
        if self.queue.try_send(LogMessage::End(end)).is_ok() {
            // Nothing is ever sent: the other end is dropped.
            let _ = ended.recv_timeout(PATIENCE);
        }
        Ok(())
    }
}

fn write_all(lines: &Receiver<LogMessage>, mut out: impl Write) {
    for message in lines {
        match message {
            // A failure to write the log cannot be reported anywhere.
            LogMessage::Line(line) => drop(out.write_all(&line).and_then(|()| out.flush())),
            LogMessage::End(end) => drop(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A file that hangs while its gate is locked.
    #[derive(Clone, Default)]
    struct SlowFile {
        text: Arc<Mutex<Vec<u8>>>,
        gate: Arc<Mutex<()>>,
    }

    impl Write for SlowFile {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock().unwrap();
            self.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_arrive_in_order_and_a_file_that_hangs_blocks_no_caller() {
        let file = SlowFile::default();
        let mut lines = Lines::start(file.clone()).unwrap();
        write!(lines, "one\ntw").unwrap();
        writeln!(lines, "o").unwrap();
        lines.flush().unwrap();
        assert_eq!(*file.text.lock().unwrap(), b"one\ntwo\n");
        let hangs = file.gate.lock().unwrap();
        for number in 0..2 * MOST {
            writeln!(lines, "{number}").unwrap();
        }
        drop(hangs);
        // Once there is space again, the number of lost lines is written.
        while lines.dropped > 0 {
            writeln!(lines, "last").unwrap();
            thread::yield_now();
        }
        lines.flush().unwrap();
        let text = String::from_utf8(file.text.lock().unwrap().clone()).unwrap();
        assert!(text.contains("0\n1\n2\n"), "{text}");
        assert!(
            text.contains("lines of this log were dropped here)\nlast\n"),
            "{text}"
        );
    }
}
