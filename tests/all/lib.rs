//! What the end-to-end tests and the evidence share: the real agent and the real runner, on this machine.

pub mod family;
pub mod guest;
pub mod rig;

use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tandem::control::{Answer, Command as Ask, ask};
use tandem::status::{AppStatus, Status};

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_path_buf()
}

/// A program of this workspace, built in the same profile as the caller.
pub fn program(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("path of this program");
    let profile = me.ancestors().find(|p| p.join("deps").is_dir()).expect("a cargo target folder");
    profile.join(name)
}

/// A component made by `make policies`.
pub fn component(name: &str) -> PathBuf {
    repository().join("target/policies").join(format!("{name}.wasm"))
}

/// One policy set of a configuration; `params` are lines.
pub fn policy_set(name: &str, allocator: &str, tuner: &str, params: &str) -> String {
    format!(
        "[policies.{name}]\nallocator = {:?}\ntuner = {:?}\n{params}\n",
        component(allocator),
        component(tuner)
    )
}

/// The policy sets of every test configuration.
pub fn policy_sets() -> String {
    let mut text = policy_set("tandem", "tandem-allocator", "tandem-tuner", "");
    for (i, allocator) in ["performance", "powersave", "schedutil", "ondemand"].iter().enumerate() {
        let params = format!("tuner-params = {{ subnet = \"{i}\" }}");
        text += &policy_set(allocator, allocator, "fixed", &params);
    }
    text
}

/// `tandem VERB ARGS... --out OUT` in the repository: whether it succeeded, and what it then printed, or complained of.
pub fn tandem(verb: &str, args: &[&str], out: &Path) -> (bool, String) {
    let done = Command::new(program("tandem"))
        .arg(verb)
        .args(args)
        .arg("--out")
        .arg(out)
        .current_dir(repository())
        .output()
        .expect("tandem (is it built with the feature sim?)");
    let said = if done.status.success() { done.stdout } else { done.stderr };
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// A running agent with a run directory of its own; dropping it ends it in good order.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    dir: tempfile::TempDir,
}

/// What an agent under test is started with.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The set that serves first.
    pub policy: String,
    /// Lines before the first section of the configuration.
    pub head: String,
    /// Sections at its end.
    pub tail: String,
    /// More arguments of `tandem run`.
    pub args: Vec<String>,
}

impl Default for AgentOptions {
    fn default() -> Self {
        let camera = "[[app]]\nname = \"camera\"\nuser = \"nobody\"\nlatency-ms = 40\n";
        Self { policy: "tandem".into(), head: String::new(), tail: camera.into(), args: vec![] }
    }
}

impl Agent {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// It ended, with its log, or does not answer.
    pub fn start(options: &AgentOptions) -> anyhow::Result<Self> {
        let mut agent = Self::spawn(options)?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if let Some(code) = agent.child.try_wait()? {
                bail!("the agent ended ({code}):\n{}", agent.log());
            }
            if agent.status().is_ok_and(|s| s.policy.state == "serving") {
                return Ok(agent);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the agent does not answer:\n{}", agent.log())
    }

    /// Starts one and does not wait.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(options: &AgentOptions) -> anyhow::Result<Self> {
        // The runner has dropped root when it comes back to the socket: the folder is open to it.
        let dir = tempfile::Builder::new().prefix("tandem-test").tempdir()?;
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let AgentOptions { policy, head, tail, args } = options;
        let config = dir.path().join("tandem.toml");
        let text =
            format!("run-dir = {:?}\npolicy = {policy:?}\n{head}\n{}\n{tail}", dir.path(), policy_sets());
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(dir.path().join("agent.log"))?;
        let child = Command::new(program("tandem"))
            .args(["run", "--allow-panic", "--config"])
            .arg(&config)
            .args(args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start the agent (is it built?)")?;
        Ok(Self { child, dir })
    }

    /// Its run directory.
    pub fn run_dir(&self) -> &Path {
        self.dir.path()
    }
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// The runners' socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("runner.sock")
    }
    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }
    /// Asks it for its state.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> anyhow::Result<Status> {
        match ask(self.run_dir(), &Ask::Status {})? {
            Answer::Status(status) => Ok(*status),
            other => bail!("unexpected answer {other:?}"),
        }
    }
    /// Asks it for something else.
    ///
    /// # Errors
    /// It refuses.
    pub fn ask(&self, command: &Ask) -> anyhow::Result<Answer> {
        ask(self.run_dir(), command)
    }
    /// The state of one application, once it is there and has finished `at_least` inferences.
    ///
    /// # Errors
    /// It is not there within 30 s.
    pub fn app(&self, name: &str, at_least: u64) -> anyhow::Result<AppStatus> {
        let began = Instant::now();
        let mut last = None;
        while began.elapsed() < Duration::from_secs(30) {
            let status = self.status()?;
            last = status.apps.iter().find(|a| a.name == name).cloned();
            if let Some(app) = &last
                && app.done >= at_least
            {
                return Ok(app.clone());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{name} has not finished {at_least} inferences in 30 s: {last:?}\n{}", self.log())
    }
    /// Sends a signal and waits for its end.
    ///
    /// # Errors
    /// It does not end within 30 s.
    pub fn end(&mut self, signal: nix::sys::signal::Signal) -> anyhow::Result<ExitStatus> {
        send(&self.child, signal)?;
        self.wait()
    }
    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end within 30 s.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        wait(&mut self.child).with_context(|| self.log())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.end(nix::sys::signal::Signal::SIGTERM);
    }
}

/// A running runner; dropping it ends it.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    dir: tempfile::TempDir,
}

impl Runner {
    /// Starts one on the real network and images, with these further arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(socket: &Path, name: &str, args: &[&str]) -> anyhow::Result<Self> {
        let model = repository().join("dnn-runner/models/mlcad-fmnist.toml");
        let images = ["--dataset", "/usr/share/datasets/fashion-mnist"];
        Self::with(socket, name, &model, &[&images, args].concat())
    }
    /// Starts one on another network, with these further arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn with(socket: &Path, name: &str, model: &Path, args: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let log = std::fs::File::create(dir.path().join("runner.log"))?;
        let child = Command::new(program("dnn-runner"))
            .args(["--name", name, "--socket"])
            .arg(socket)
            .arg("--model")
            .arg(model)
            .arg("--report")
            .arg(dir.path().join("report.json"))
            .args(args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start the runner (is it built?)")?;
        Ok(Self { child, dir })
    }
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("runner.log")).unwrap_or_default()
    }
    /// Ends it by TERM and reads its report.
    ///
    /// # Errors
    /// It failed, or left no report.
    pub fn end(mut self) -> anyhow::Result<serde_json::Value> {
        send(&self.child, nix::sys::signal::Signal::SIGTERM)?;
        let code = wait(&mut self.child)?;
        anyhow::ensure!(code.success(), "the runner ended with {code}:\n{}", self.log());
        let text = std::fs::read(self.dir.path().join("report.json")).context("the runner's report")?;
        Ok(serde_json::from_slice(&text)?)
    }
    /// Kills it.
    ///
    /// # Errors
    /// It is not there.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(child: &Child, signal: nix::sys::signal::Signal) -> anyhow::Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id())?), signal)?)
}

fn wait(child: &mut Child) -> anyhow::Result<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        if let Some(code) = child.try_wait()? {
            return Ok(code);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    bail!("did not end within 30 s")
}

/// The machine for one test alone.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // A test that failed has ended its agent all the same.
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What this machine lacks for the real agent; such a test prints it and is counted as skipped.
pub fn lacking() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root");
    }
    if !Path::new("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz").exists() {
        return Some("dataset-fashion-mnist");
    }
    None
}

/// Every CPU-controller and cpuset setting of every cgroup of this machine, a line each, and where the
/// threads of `pid` are: what an agent may change here and must put back.
pub fn settings(pid: u32) -> String {
    let mut lines = Vec::new();
    for root in ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpuset", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
        walk(Path::new(root), &mut lines);
    }
    lines.sort();
    lines.dedup();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let affinity = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let affinity = affinity.lines().filter(|l| l.starts_with("Cpus_allowed_list")).collect::<String>();
    format!("{}\n{groups}{affinity}", lines.join("\n"))
}

const WATCHED: [&str; 8] = [
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.shares",
    "cpu.weight",
    "cpu.max",
    "cpuset.cpus",
    "cgroup.subtree_control",
    "cpuset.mems",
];

fn walk(dir: &Path, lines: &mut Vec<String>) {
    for file in WATCHED {
        if let Ok(value) = std::fs::read_to_string(dir.join(file)) {
            lines.push(format!("{}/{file} = {}", dir.display(), value.trim()));
        }
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // Links are the hierarchies' second names.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), lines);
        }
    }
}
