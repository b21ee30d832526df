//! The server under test: this test binary, started again to run the one test that is a server. It speaks enough HTTP for the
//! load, answers with its generation, does what a request asks of its `Upgrader`, and misbehaves as the file `SCRIPT` says.
//! What it has to say it says on its standard error stream, a line at a time; all generations share it.

use hotrun::{Conn, PidMode, Probation, Signal, Upgrader};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// One line, in one piece: all generations write to one stream.
macro_rules! say {
    ($($words:tt)*) => {{
        let line = format!($($words)*) + "\n";
        io::stderr().write_all(line.as_bytes()).unwrap();
    }};
}

/// Not a test but the server of the others.
#[test]
fn server() {
    if std::env::var_os("SERVE").is_some() {
        serve().unwrap();
    }
}

fn millis(name: &str) -> Option<Duration> {
    std::env::var(name).ok().map(|millis| Duration::from_millis(millis.parse().unwrap()))
}

/// What this start is to do wrong.
fn script() -> String {
    std::env::var("SCRIPT").ok().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
}

fn builder() -> hotrun::Builder {
    let mut builder = hotrun::builder();
    if let Some(window) = millis("PROBATION_MS") {
        builder = builder.probation(window);
    }
    if std::env::var_os("MANUAL").is_some() {
        builder = builder.probation(Probation::Manual);
    }
    if let Some(timeout) = millis("READY_MS") {
        builder = builder.ready_timeout(timeout);
    }
    if let Some(timeout) = millis("DRAIN_MS") {
        builder = builder.drain_timeout(timeout);
    }
    if let Some(linger) = millis("LINGER_MS") {
        builder = builder.linger(linger);
    }
    if std::env::var_os("KEEP_PID").is_some() {
        builder = builder.pid_mode(PidMode::KeepPid);
    }
    if let Some(path) = std::env::var_os("PID_FILE") {
        builder = builder.pid_file(path);
    }
    if let Ok(most) = std::env::var("MAX_GENERATIONS") {
        builder = builder.max_generations(most.parse().unwrap());
    }
    if let Some(program) = std::env::var_os("PROGRAM") {
        builder = builder.program(program);
    }
    if std::env::var_os("RELOAD").is_some() {
        builder = builder.reload_on(&[Signal::SIGHUP]);
    }
    if let Ok(count) = std::env::var("SICK_AFTER") {
        let well = std::sync::atomic::AtomicI32::new(count.parse().unwrap());
        builder = builder.healthy(move || {
            let is_well = well.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 0;
            if !is_well {
                say!("sick");
            }
            is_well
        });
    }
    builder.on_failure(|error| say!("failed {error}"))
}

fn serve() -> io::Result<()> {
    let script = script();
    match script.as_str() {
        "exit" => return Ok(()),
        "fail" => return Err(Command::new("sh").args(["-c", "exit 3"]).exec()),
        "hang early" => std::thread::park(),
        "garbage" => return say_on_channel("nonsense"),
        "older" => return say_hello(1),
        "newer" => return say_hello(u8::MAX),
        // Until somebody writes there.
        "wait early" => drop(std::fs::read(std::env::var("FIFO").unwrap())),
        _ => {}
    }
    let up = builder().init()?;
    check_environment();
    match script.as_str() {
        "panic" => panic!("the new code is broken"),
        "hang" => std::thread::park(),
        _ => {}
    }
    let ballast = millis("BALLAST_MB").map(|mb| vec![1u8; mb.as_millis() as usize * 1024 * 1024]);
    let mut said = format!("serving generation={} pid={}", up.generation(), std::process::id());
    let mut threads = Vec::new();
    let mut waiting: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    // The first accept says READY, and the rest is asked for after it.
    let eager = std::env::var_os("EAGER").is_some();
    for wanted in std::env::var("LISTEN").unwrap_or_default().split(',').filter(|wanted| !wanted.is_empty()) {
        let (name, address) = wanted.split_once('=').unwrap();
        if script.split(' ').any(|word| word.strip_prefix("without:") == Some(name)) {
            continue;
        }
        let up = up.clone();
        if let Some(path) = address.strip_prefix("unix:") {
            let listener = up.listen_unix(name, path)?;
            said += &format!(" {name}={path}");
            waiting.push(Box::new(move || accept_unix(&up, &listener)));
        } else if let Some(address) = address.strip_prefix("udp:") {
            let socket = up.bind_udp(name, address)?;
            said += &format!(" {name}={}", socket.local_addr()?);
            waiting.push(Box::new(move || answer_datagrams(&up, &socket)));
        } else {
            let listener = up.listen(name, address)?;
            said += &format!(" {name}={}", listener.local_addr()?);
            waiting.push(Box::new(move || accept(&up, listener)));
        }
        if eager {
            threads.extend(waiting.drain(..).map(std::thread::spawn));
        }
    }
    if let Some(path) = std::env::var_os("LOG") {
        log(&up, Path::new(&path))?;
    }
    if std::env::var_os("STATE").is_some() {
        let mut trail = up.inherited_state("trail")?.unwrap_or_default();
        trail.extend(format!("{};", up.generation()).bytes());
        said += &format!(" trail={}", String::from_utf8_lossy(&trail));
        up.on_handoff("trail", move || trail.clone())?;
    }
    if std::env::var_os("RELOAD").is_some() {
        let reloads = up.reloads();
        std::thread::spawn(move || reloads.for_each(|_reload| say!("reloaded pid={}", std::process::id())));
    }
    if std::env::var_os("CHILDREN").is_some() {
        std::thread::spawn(children);
    }
    say!("{said}");
    up.ready()?;
    if script == "crash" {
        std::process::abort();
    }
    threads.extend(waiting.drain(..).map(std::thread::spawn));
    for thread in threads {
        thread.join().unwrap();
    }
    let reason = up.drained();
    drop(ballast);
    say!("leaving generation={} pid={} reason={reason:?}", up.generation(), std::process::id());
    Ok(())
}

/// The protocol is for this process alone.
fn check_environment() {
    for (name, _) in std::env::vars() {
        let left = ["LISTEN_", "HOTRUN_", "NOTIFY_SOCKET", "WATCHDOG_"].iter().any(|start| name.starts_with(start));
        let left = left && name != "LISTEN";
        assert!(!left, "{name} is left for the children");
    }
}

/// Says bytes, in the octal escapes of printf(1), on the channel that the environment names.
fn say_on_channel(bytes: &str) -> io::Result<()> {
    let channel = std::env::var("HOTRUN_CTL").unwrap();
    let number = channel.split(':').next().unwrap();
    // Opening it again is not possible for a socket; the shell has a way to write to a number.
    let status = Command::new("sh").args(["-c", &format!("printf '{bytes}' >&{number}")]).status()?;
    assert!(status.success());
    std::thread::park();
    Ok(())
}

/// HELLO of a library with that version of the protocol.
fn say_hello(protocol: u8) -> io::Result<()> {
    let channel = std::env::var("HOTRUN_CTL").unwrap();
    let token = u64::from_str_radix(channel.split(':').nth(1).unwrap(), 16).unwrap();
    let bytes = [[protocol, 0].as_slice(), &token.to_le_bytes(), &std::process::id().to_le_bytes()].concat();
    say_on_channel(&bytes.iter().fold("H".to_owned(), |text, byte| format!("{text}\\{byte:03o}")))
}

fn accept(up: &Upgrader, listener: hotrun::TcpListener) {
    let listener = Arc::new(listener);
    for conn in listener.incoming() {
        let conn = conn.unwrap();
        let up = up.clone();
        let listener = Arc::clone(&listener);
        std::thread::spawn(move || {
            // A client that has gone is the load's to count.
            let _ = http(&up, conn, &listener);
        });
    }
}

/// Gives its generation for every line.
fn accept_unix(up: &Upgrader, listener: &hotrun::UnixListener) {
    for conn in listener.incoming() {
        let conn = conn.unwrap();
        let mut input = BufReader::new(&*conn);
        let mut line = String::new();
        while (!input.buffer().is_empty() || conn.more().unwrap()) && input.read_line(&mut line).is_ok_and(|n| n > 0) {
            writeln!(&*conn, "{}", up.generation()).unwrap();
        }
        drop(input);
        let _ = conn.finish();
    }
}

fn answer_datagrams(up: &Upgrader, socket: &hotrun::UdpSocket) {
    let mut bytes = [0; 64];
    while let Some((_, from)) = socket.recv_from(&mut bytes).unwrap() {
        socket.send_to(up.generation().to_string().as_bytes(), from).unwrap();
    }
}

/// One line a generation, in a file that the first one opened.
fn log(up: &Upgrader, path: &Path) -> io::Result<()> {
    let file = match up.inherited_file("log") {
        Some(fd) => std::fs::File::from(fd),
        None => std::fs::File::options().create_new(true).write(true).open(path)?,
    };
    up.keep_file("log", &file)?;
    writeln!(&file, "generation {}", up.generation())
}

/// Starts children without end, each of which says which descriptors and which of our variables it has.
fn children() {
    loop {
        let output = Command::new("sh")
            .args(["-c", "ls -l /proc/self/fd; env; grep SigBlk /proc/self/status"])
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let sockets = text.lines().filter(|line| line.contains("socket:")).count();
        let ours = text.lines().filter(|line| line.starts_with("HOTRUN_") || line.starts_with("LISTEN_")).count();
        let blocked = !text.contains("SigBlk:\t0000000000000000");
        if sockets + ours > 0 || blocked {
            say!("leaked {text:?}");
        }
    }
}

fn http(up: &Upgrader, conn: Conn<TcpStream>, listener: &hotrun::TcpListener) -> io::Result<()> {
    let mut input = BufReader::new(&conn);
    while !input.buffer().is_empty() || conn.more()? {
        let mut head = Vec::new();
        for line in input.by_ref().lines() {
            let line = line?;
            if line.is_empty() {
                break;
            }
            head.push(line.to_ascii_lowercase());
        }
        let Some(first) = head.first() else { break };
        let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
        let value = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: u64 = value("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        io::copy(&mut input.by_ref().take(length), &mut io::sink())?;
        if let Some(ms) = path.strip_prefix("/slow?ms=") {
            slowly(up, &conn, Duration::from_millis(ms.parse().unwrap()))?;
            break;
        }
        let body = format!("version: {}\n{}", up.generation(), answer(up, &path, listener));
        let last = conn.is_draining() || value("connection:") == Some("close");
        let connection = if last { "close" } else { "keep-alive" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n", body.len());
        (&conn).write_all(head.as_bytes())?;
        (&conn).write_all(body.as_bytes())?;
        if last {
            break;
        }
    }
    drop(input);
    conn.finish()
}

/// An answer in ten pieces, over that time.
fn slowly(up: &Upgrader, mut conn: &Conn<TcpStream>, time: Duration) -> io::Result<()> {
    let body = format!("version: {}\n{}", up.generation(), "this took its time\n".repeat(10));
    conn.write_all(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()).as_bytes(),
    )?;
    for piece in body.as_bytes().chunks(body.len().div_ceil(10)) {
        // Nothing is waited for: the time is what is asked for.
        let (_nobody, nothing) = std::sync::mpsc::channel::<()>();
        let _ = nothing.recv_timeout(time / 10);
        conn.write_all(piece)?;
    }
    Ok(())
}

/// What a request asks of this process.
fn answer(up: &Upgrader, path: &str, listener: &hotrun::TcpListener) -> String {
    match path {
        "/upgrade" => match up.upgrade() {
            Ok(successor) => format!("{successor:?}"),
            Err(error) => format!("error {error:?}"),
        },
        "/confirm" => format!("{:?}", up.confirm()),
        "/back" => format!("{:?}", up.roll_back()),
        "/stop" => {
            up.stop();
            "stopping".to_owned()
        }
        "/crash" => std::process::abort(),
        // What the kernel calls the socket for as long as it lives (socket(7), SO_COOKIE). One who was accepted just before the hand-over
        // may be answered when it is not here any more.
        "/cookie" => {
            rustix::net::sockopt::socket_cookie(listener).map_or("let go".to_owned(), |cookie| cookie.to_string())
        }
        "/state" => format!("{} connections, {} generations", up.connections(), up.generations()),
        "/wait" => {
            // Answered when the client of /go says so, as long as that takes.
            GO.wait();
            "waited".to_owned()
        }
        "/wait-then-upgrade" => {
            GO.wait();
            format!("{:?}", up.upgrade())
        }
        "/go" => {
            GO.wait();
            "gone".to_owned()
        }
        _ => "hello".to_owned(),
    }
}

static GO: std::sync::LazyLock<std::sync::Barrier> = std::sync::LazyLock::new(|| std::sync::Barrier::new(2));
