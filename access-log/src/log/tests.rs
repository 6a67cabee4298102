//! The writer beside disks that are full, readers that stop and files that move.

use std::io::Read as _;
use std::path::PathBuf;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

const BUFFER: usize = 4 * CHUNK_BYTES;

fn entry(target: &[u8]) -> Entry<'_> {
    Entry {
        client: "10.0.0.1",
        method: b"GET",
        target,
        protocol: "HTTP/1.1",
        status: 200,
        ..Entry::default()
    }
}

fn start(destination: Destination) -> AccessLog {
    AccessLog::start(Plan { destination, format: Format::Combined, buffer_bytes: BUFFER }).unwrap()
}

fn targets(path: &PathBuf) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.split(' ').nth(6).unwrap_or("?").to_owned()).collect()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn lines_of_all_pens_are_written_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let log = start(Destination::File(path.clone()));
    let threads: Vec<_> = (0..2)
        .map(|number| {
            let pen = log.pen();
            std::thread::spawn(move || {
                for place in 0..5_000 {
                    pen.request(&entry(format!("/{number}/{place}").as_bytes()));
                    if place % 100 == 0 {
                        // As a worker's tick does, and at a pace that a disk keeps up with.
                        pen.flush();
                        eventually("the disk keeps up", || {
                            pen.state.waiting.load(Ordering::Acquire) < CHUNK_BYTES
                        });
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(log.close(PATIENCE));
    assert_eq!(log.counts(), Counts { written: 10_000, dropped: 0 });
    let targets = targets(&path);
    for number in 0..2 {
        let prefix = format!("/{number}/");
        let of_pen: Vec<_> = targets.iter().filter(|target| target.starts_with(&prefix)).collect();
        assert_eq!(of_pen.len(), 5_000);
        assert!(of_pen.iter().enumerate().all(|(place, target)| **target == format!("{prefix}{place}")));
    }
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let log = start(Destination::File("/dev/full".into()));
    let pen = log.pen();
    for _ in 0..100 {
        pen.request(&entry(b"/"));
    }
    drop(pen);
    assert!(log.close(PATIENCE));
    assert_eq!(log.counts(), Counts { written: 0, dropped: 100 });
}

#[test]
fn what_is_handed_over_often_waits_as_long_as_what_is_handed_over_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    // Both ways: opening it waits for nobody.
    let both = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK;
    let _reader = rustix::fs::open(&path, both, rustix::fs::Mode::empty()).unwrap();
    let log = start(Destination::File(path));
    let pen = log.pen();
    let mut sent = 0;
    let began = Instant::now();
    while log.counts().dropped == 0 {
        pen.request(&entry(b"/"));
        // As a worker's tick does, with little to write.
        pen.flush();
        sent += 1;
        assert!(began.elapsed() < PATIENCE, "the queue has a bound");
    }
    let mut line = Vec::new();
    Format::Combined.push(&mut line, &entry(b"/"));
    // Beside what the pipe takes, and what the pen keeps.
    assert!(sent * line.len() > BUFFER + CHUNK_BYTES, "{sent} lines");
}

#[test]
fn a_reader_that_stops_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    // Both ways: opening it waits for nobody.
    let both = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK;
    let mut reader = File::from(rustix::fs::open(&path, both, rustix::fs::Mode::empty()).unwrap());
    let log = start(Destination::File(path));
    let pen = log.pen();
    let mut sent = 0_u64;
    let began = Instant::now();
    while log.counts().dropped == 0 {
        pen.request(&entry(b"/"));
        sent += 1;
        assert!(began.elapsed() < PATIENCE, "the queue has a bound");
    }
    assert!(sent * 80 < 2 * (BUFFER as u64 + CHUNK_BYTES as u64 + 64 * 1024), "{sent} lines are held");
    assert!(!log.close(Duration::from_millis(1)), "it is still writing, and not waited for");
    // Once the reader goes on, all that was not dropped comes out, and no line is torn.
    drop(pen);
    let mut text = Vec::new();
    let mut buffer = [0; 65536];
    let began = Instant::now();
    loop {
        // Looked at before the read: what it wrote before its end is there then.
        let has_ended = *log.shared.has_ended.lock().unwrap();
        match reader.read(&mut buffer) {
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                if has_ended {
                    break;
                }
                std::thread::yield_now();
            }
        }
        assert!(began.elapsed() < PATIENCE, "all comes out");
    }
    let counts = log.counts();
    assert_eq!(counts.written + counts.dropped, sent);
    assert_eq!(lines(&text), counts.written);
}

fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[test]
fn a_file_that_was_moved_is_followed_by_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let log = start(Destination::File(path.clone()));
    let pen = log.pen();
    let write = |target: &[u8]| {
        let before = log.counts().written;
        pen.request(&entry(target));
        pen.flush();
        eventually("it is written", || log.counts().written > before);
    };
    write(b"/1");
    std::fs::rename(&path, &moved).unwrap();
    write(b"/2");
    log.reopen();
    write(b"/3");
    assert_eq!((targets(&moved), targets(&path)), (vec!["/1".into(), "/2".into()], vec!["/3".into()]));
    // By itself, within a look.
    std::fs::remove_file(&path).unwrap();
    eventually("a new file", || path.exists());
    write(b"/4");
    assert_eq!(targets(&path), ["/4"]);
    // A directory that is gone leaves it where it is.
    drop(directory);
    write(b"/5");
    assert_eq!(log.counts(), Counts { written: 5, dropped: 0 });
}

#[test]
fn after_a_torn_line_the_next_one_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let destination = Destination::File(path.clone());
    let file = destination.open().unwrap();
    let shared = Arc::<Shared>::default();
    let mut writer = Writer { destination, file, shared, is_torn: false, is_failing: false };
    assert!(writer.write(b"a b c").1.is_ok());
    // As a disk leaves it that was full after that.
    writer.is_torn = true;
    assert!(writer.write(b"d\n").1.is_ok() && !writer.is_torn);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a b c\nd\n");
}

#[test]
fn a_pipe_gets_whole_lines() {
    let bytes = b"aa\nbbb\ncccccc\nd\n";
    for (most, want) in [
        (100, &bytes[..]),
        (16, bytes),
        (15, b"aa\nbbb\ncccccc\n"),
        (7, b"aa\nbbb\n"),
        (6, b"aa\n"),
        (2, b"aa\n"),
    ] {
        assert_eq!(whole_lines(bytes, most), want, "{most}");
    }
}
