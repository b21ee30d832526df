//! The real systemd as the first process of namespaces of its own: boots it, runs services in it, ends it all.
//!
//! What a service is and does never lives here: the tests say it in unit files. Nothing outside of the namespaces
//! changes, for all that systemd could write to is a fresh tmpfs or read-only; the network is the machine's, so that a
//! test can connect to what a service listens on. Several can run at once, and the machine itself need not run systemd.
//!
//! Three processes make it: the *keeper*, a shell outside of the namespaces that waits for the test to let go of its
//! input (by dropping [`Init`] or by dying, of whatever) and then removes everything; `unshare`, which lives as long as
//! the namespaces; and systemd.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// So generous that only a fault reaches it.
const LONG: Duration = Duration::from_secs(120);

/// Where a test is told the folder of the newer systemd, as `.ci/systemd` prints it. Where it is set, what cannot boot
/// is a fault and not a reason to skip.
const FOLDER: &str = "TEST_SYSTEMD";

/// The search path inside.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which systemd to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The machine's own: 252 in Debian 12.
    Machine,
    /// The one that `.ci/systemd` unpacks, which knows `Type=notify-reload`.
    Newer,
}

/// A booted systemd. Dropped, it is gone, with all that ran in it.
pub struct Init {
    /// What systemd itself says, a line each, as `systemd[1]: echo.service: Main process exited, …`.
    pub log: Said,
    /// What the services print, all in one.
    pub output: Said,
    pid: Pid,
    folder: PathBuf,
    cgroup: PathBuf,
    keeper: Child,
    /// Closed, it tells the keeper to end it all.
    hold: Option<ChildStdin>,
}

impl Init {
    /// Boots, and returns once systemd says that it has. `None`, with the reason printed, where it cannot be.
    pub fn boot(kind: Kind) -> Option<Init> {
        match Init::try_boot(kind) {
            Ok(init) => Some(init),
            Err(reason) if std::env::var_os(FOLDER).is_some() => panic!("{kind:?} systemd does not boot: {reason}"),
            Err(reason) => {
                println!("skipped: {kind:?} systemd does not boot: {reason}");
                None
            }
        }
    }

    fn try_boot(kind: Kind) -> Result<Init, String> {
        if fs::metadata("/proc/self").map_or(true, |own| own.uid() != 0) {
            return Err("only root can".into());
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            return Err("no systemd is installed; .ci/systemd installs it".into());
        }
        let newer = match kind {
            Kind::Machine => PathBuf::new(),
            Kind::Newer => newer().ok_or("no newer systemd is there; .ci/systemd unpacks one")?,
        };
        let cgroups = cgroups().ok_or("no cgroup2 is mounted")?;
        Init::start(&newer, &cgroups).map_err(|error| error.to_string())?
    }

    fn start(newer: &Path, cgroups: &Path) -> io::Result<Result<Init, String>> {
        // The keeper removes it, for it outlives a test that is killed.
        let folder = tempfile::Builder::new().prefix("hotrun-systemd-").tempdir()?.keep();
        // Services of other users reach their files in it.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        for name in ["units/service.d", "dev", "programs"] {
            fs::create_dir_all(folder.join(name))?;
        }
        for target in TARGETS {
            let text = format!("[Unit]\nDescription=The tests' {target}\nDefaultDependencies=no\nAllowIsolate=yes\n");
            fs::write(folder.join("units").join(target), text)?;
        }
        fs::write(folder.join("units/service.d/output.conf"), OUTPUT)?;
        fs::write(folder.join("system.conf"), CONFIG)?;
        let log = Said::follow(&folder.join("log"))?;
        let output = Said::follow(&folder.join("output"))?;
        let ready = UnixDatagram::bind(folder.join("ready"))?;
        let mut errors = OpenOptions::new().read(true).append(true).create(true).open(folder.join("errors"))?;

        let programs = std::env::current_exe()?;
        let programs = programs.parent().unwrap_or(Path::new("/"));
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&folder, cgroups, newer, programs])
            .arg(INSIDE)
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            // What ends the test with its group, as a terminal's Ctrl-C does, leaves the keeper to tidy up.
            .process_group(0)
            .spawn()?;
        let hold = keeper.stdin.take();
        let life = keeper.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let cgroup = cgroups.join(format!("hotrun-test-{}", keeper.id()));
        let mut init = Init { log, output, pid: Pid::from_raw(0), folder, cgroup, keeper, hold };

        let mut message = [0; 4096];
        loop {
            let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN), PollFd::new(life.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(LONG).map_err(io::Error::other)?)?;
            let [said, ended] = fds.map(|fd| fd.any() == Some(true));
            if said {
                let length = ready.recv(&mut message)?;
                if String::from_utf8_lossy(&message[..length]).lines().any(|line| line == "READY=1") {
                    break;
                }
            } else {
                let mut why = if ended { "it ended\n" } else { "it never was ready\n" }.to_owned();
                // By the open file, as a keeper that could not begin has removed the folder; it is shared, and at its end.
                errors.rewind()?;
                errors.read_to_string(&mut why)?;
                return Ok(Err(why + &init.log.text()));
            }
        }
        let pid = fs::read_to_string(init.folder.join("pid"))?;
        init.pid = Pid::from_raw(pid.trim().parse().map_err(io::Error::other)?);
        Ok(Ok(init))
    }

    /// Writes a unit file, or what `echo.service.d/more.conf` names. Who changes a unit that systemd has loaded follows
    /// it with `systemctl(&["daemon-reload"])`.
    pub fn write_unit(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join("units").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        Path::new("/run/systemd/system").join(name)
    }

    /// The folder that is `/run/hotrun` inside: for files and sockets that a test and its services share. A program to
    /// upgrade is best put there, for a service with a `/tmp` of its own does not see what a test was built to under
    /// `/tmp`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command inside all the namespaces, with nothing of the test's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.pid.to_string());
        command.args(["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--wd=/", "--", program]);
        command.env_clear().env("PATH", PATH).env("SYSTEMD_UNIT_PATH", "/run/systemd/system");
        command.env("SYSTEMD_PAGER", "").env("SYSTEMD_COLORS", "0").stdin(Stdio::null());
        command
    }

    /// `systemctl` with these arguments.
    pub fn systemctl(&self, args: &[&str]) -> Output {
        self.command("systemctl").args(args).output().unwrap()
    }

    /// `systemctl` with these arguments, which succeeds; what it prints.
    #[track_caller]
    pub fn systemctl_ok(&self, args: &[&str]) -> String {
        let output = self.systemctl(args);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let (log, said) = (self.log.text(), self.output.text());
        assert!(output.status.success(), "systemctl {args:?}: {printed}{errors}\nsystemd:\n{log}\nservices:\n{said}");
        printed
    }

    /// One property of a unit.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl_ok(&["show", "--property", property, "--value", unit]).trim_end().to_owned()
    }

    /// The unit's main process, as the test's own namespace numbers it; `None` where it has none.
    #[track_caller]
    pub fn main_pid(&self, unit: &str) -> Option<Pid> {
        let inside: i32 = self.show(unit, "MainPID").parse().unwrap();
        self.processes(unit).into_iter().find(|pid| inside != 0 && self.inside(*pid) == Some(inside))
    }

    /// All processes of a unit, as the test's own namespace numbers them; none where the unit does not run.
    #[track_caller]
    pub fn processes(&self, unit: &str) -> Vec<Pid> {
        let group = self.show(unit, "ControlGroup");
        if group.is_empty() {
            return Vec::new();
        }
        let path = self.cgroup.join(group.trim_start_matches('/')).join("cgroup.procs");
        let pids = fs::read_to_string(path).unwrap_or_default();
        pids.lines().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
    }

    /// How a process is numbered inside, which is what services print and `systemctl` shows; `None` where it is gone.
    pub fn inside(&self, pid: Pid) -> Option<i32> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        numbers.split_whitespace().last()?.parse().ok()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        drop(self.hold.take());
        // Its end is the end of all: it has waited for the namespaces, and removed the cgroup and the folder.
        let status = self.keeper.wait();
        let booted = self.pid.as_raw() != 0;
        if booted && !std::thread::panicking() {
            assert!(status.as_ref().is_ok_and(|status| status.success()), "the keeper of systemd failed: {status:?}");
        }
    }
}

/// Text that comes in lines, and whoever waits for one.
pub struct Said {
    shared: Arc<(Mutex<String>, Condvar)>,
    /// What keeps the FIFO from its end while nobody else writes, and the reader of its lines.
    follower: Option<(File, JoinHandle<()>)>,
}

impl Said {
    /// Makes a FIFO, and collects what is written to it.
    fn follow(path: &Path) -> io::Result<Said> {
        // Services of other users write to it too; the umask has its say on what `mkfifo` makes.
        mkfifo(path, Mode::from_bits_truncate(0o622))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o622))?;
        let writer = OpenOptions::new().read(true).write(true).open(path)?;
        let mut reader = BufReader::new(File::open(path)?);
        let shared = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let to = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                // The log's lines are the kernel log's, each with its priority in front.
                let text = String::from_utf8_lossy(&line);
                let priority = text.starts_with('<').then(|| text.find('>')).flatten();
                to.0.lock().unwrap().push_str(&text[priority.map_or(0, |end| end + 1)..]);
                to.1.notify_all();
                line.clear();
            }
        });
        Ok(Said { shared, follower: Some((writer, thread)) })
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        self.shared.0.lock().unwrap().clone()
    }

    /// Waits until a line has all of these parts, and returns the line.
    #[track_caller]
    pub fn wait_for(&self, parts: &[&str]) -> String {
        self.wait_for_nth(0, parts)
    }

    /// Waits until so many lines before it, and then one more, have all of these parts, and returns that line.
    #[track_caller]
    pub fn wait_for_nth(&self, before: usize, parts: &[&str]) -> String {
        let fits = |text: &str| {
            let mut lines = text.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
            lines.nth(before).map(str::to_owned)
        };
        let text = self.shared.0.lock().unwrap();
        let (text, _) = self.shared.1.wait_timeout_while(text, LONG, |text| fits(text).is_none()).unwrap();
        fits(&text).unwrap_or_else(|| panic!("nothing says {parts:?}:\n{text}"))
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        if let Some((writer, thread)) = self.follower.take() {
            drop(writer);
            let _ = thread.join();
        }
    }
}

/// The folder of the newer systemd.
fn newer() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ci-systemd");
    let folder = std::env::var_os(FOLDER).map_or_else(default, PathBuf::from);
    // `//` would be another's path to the shell; a link is the machine's own.
    fs::canonicalize(folder).ok().filter(|folder| folder.join("lib/systemd/systemd").exists())
}

/// Where cgroup2 is mounted. It is never mounted anew here: outside of a cgroup namespace that would set the options of
/// all.
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    mounts.find_map(|mut fields| Some(PathBuf::from(fields.nth(1).filter(|_| fields.next() == Some("cgroup2"))?)))
}

/// What units expect without saying it. They are all the units there are, so that nothing of the machine's is ever
/// started.
const TARGETS: [&str; 10] = [
    "default.target",
    "sysinit.target",
    "basic.target",
    "sockets.target",
    "timers.target",
    "network.target",
    "network-online.target",
    "multi-user.target",
    "shutdown.target",
    "umount.target",
];

/// A drop-in of all services: there is no journal.
const OUTPUT: &str = "[Service]\nStandardOutput=append:/run/hotrun/output\nStandardError=append:/run/hotrun/output\n";

/// In place of the machine's. On the command line it would be forgotten at a `daemon-reload`. `/dev/kmsg` is the FIFO
/// `log`; more than 200 messages in five seconds are dropped by systemd, wherefore it is not told to debug.
const CONFIG: &str = "[Manager]\nLogTarget=kmsg\nLogLevel=info\nShowStatus=no\n";

/// The keeper: makes the cgroup, starts the namespaces, waits for the end of its input, and leaves nothing.
///
/// `INSIDE` runs once before and once after its move into the cgroup, for the namespace's root is where a process is
/// when it unshares. `unshare` stays out of the cgroup, so that it lives to wait for all that is killed in it.
const KEEPER: &str = r#"
    set -eu
    folder=$1 cgroups=$2 newer=$3 programs=$4 inside=$5
    cgroup=$cgroups/hotrun-test-$$
    trap 'rm -rf --one-file-system "$folder"' EXIT
    mkdir "$cgroup"
    # Should the keeper be killed, `unshare` is too, and with it systemd. Its output ends with it: the test sees that.
    setpriv --pdeathsig KILL unshare --fork --kill-child=SIGKILL --pid --uts --ipc --mount --propagation private \
        sh -c "$inside" enter "$folder" "$cgroup" "$newer" "$programs" "$inside" </dev/null &
    exec >/dev/null
    cat
    # While empty, it is removed under the feet of a boot that has not come to it, which then fails.
    rmdir "$cgroup" 2>/dev/null || echo 1 >"$cgroup/cgroup.kill"
    wait
    [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} +
"#;

/// What becomes systemd. By then every place that it or a service could write to is its own.
const INSIDE: &str = r#"
    set -eu
    folder=$1 cgroup=$2 newer=$3 programs=$4 inside=$5
    if [ "$0" = enter ]; then
        # /proc is still the machine's, and says which process this is there.
        read -r pid rest </proc/self/stat
        echo "$pid" >"$folder/pid"
        echo 0 >"$cgroup/cgroup.procs"
        exec unshare --cgroup sh -c "$inside" inside "$@" >/dev/null
    fi

    mount -t proc proc /proc
    mount --bind -o ro /proc/sys /proc/sys
    mount --bind -o ro /sys /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup

    if [ -n "$newer" ]; then
        mount --bind "$newer/lib/systemd" /lib/systemd
        for libraries in "$newer"/usr/lib/*-linux-gnu/systemd; do
            mount --bind "$libraries" "${libraries#"$newer"}"
        done
        for program in systemctl systemd-analyze systemd-notify systemd-run; do
            for from in "$newer/bin/$program" "$newer/usr/bin/$program"; do
                [ ! -e "$from" ] || mount --bind "$from" "/usr/bin/$program"
            done
        done
    fi

    # Devices without the kernel's log and without a terminal: systemd's words go to the test.
    dev=$folder/dev
    mount -t tmpfs -o mode=755,size=64k tmpfs "$dev"
    for device in null zero full random urandom tty; do
        : >"$dev/$device"
        mount --bind "/dev/$device" "$dev/$device"
    done
    mkdir "$dev/pts" "$dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$dev/shm"
    ln -s pts/ptmx "$dev/ptmx"
    ln -s /proc/self/fd "$dev/fd"
    ln -s /proc/self/fd/0 "$dev/stdin"
    ln -s /proc/self/fd/1 "$dev/stdout"
    ln -s /proc/self/fd/2 "$dev/stderr"
    ln -s /run/hotrun/log "$dev/kmsg"
    mount --move "$dev" /dev

    # The test's folder comes to /run before /tmp is hidden, and what the test was built to stays where it was.
    mount --bind -o ro "$programs" "$folder/programs"
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/hotrun /run/lock /run/systemd/system /run/generators
    mount --bind "$folder" /run/hotrun
    mount --move "$folder/programs" /run/hotrun/programs
    mount --bind "$folder/units" /run/systemd/system
    mount -t tmpfs -o mode=755 tmpfs /etc/systemd
    cp "$folder/system.conf" /etc/systemd/system.conf
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    mount -t tmpfs -o mode=755 tmpfs /var
    mkdir -m 1777 /var/tmp
    mkdir -p /var/lib /var/log /var/cache
    ln -s /run /var/run
    case $programs in
    /tmp/* | /run/* | /var/*)
        mkdir -p "$programs"
        mount --bind /run/hotrun/programs "$programs"
        ;;
    esac
    mount -o remount,bind,ro /

    # In a container systemd takes its hands off the machine; the capabilities that it could reach it with are gone
    # anyway.
    exec env -i container=hotrun PATH="$PATH" NOTIFY_SOCKET=/run/hotrun/ready SYSTEMD_UNIT_PATH=/run/systemd/system \
        SYSTEMD_GENERATOR_PATH=/run/generators SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/generators \
        setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog,-audit_write,-audit_control,-audit_read \
        /lib/systemd/systemd --system --unit=default.target
"#;
