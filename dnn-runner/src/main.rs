//! `dnn-runner`: arguments, privileges, wiring, exit code; no logic.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use channel::Target;
use clap::Parser;
use dnn_runner::batch::Batcher;
use dnn_runner::cli::{Batch, Bench, Cli, Command, Export, Measure, Profile, Run};
use dnn_runner::data::{Images, Split};
use dnn_runner::engine::export;
use dnn_runner::follower::Follower;
use dnn_runner::kernel::Kernel;
use dnn_runner::link::{Link, hello};
use dnn_runner::manifest::Manifest;
use dnn_runner::model::Supernet;
use dnn_runner::profile::{self, Wanted};
use dnn_runner::report::{Setup, Tally};
use dnn_runner::stream::Schedule;
use dnn_runner::worker::{Parts, Stream, Worker};
use dnn_runner::{bench, clock, privilege, serve};
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tracing::info;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let level = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    // A thread that panics would leave the others waiting for it: the whole process ends.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        std::process::abort();
    }));
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Bench(args)) => run_bench(&args),
        Some(Command::Measure(args)) => run_measure(&args),
        Some(Command::Profile(args)) => run_profile(&args),
        Some(Command::Export(args)) => run_export(&args),
        None => run(cli.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dnn-runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What root may have to open: done before it is given up.
struct Opened {
    net: Arc<Supernet>,
    /// Some engines open their files once more for every thread.
    batcher: Batcher,
    images: Option<Images>,
    schedule: Schedule,
    listener: Option<UnixListener>,
    report: Option<File>,
    timeline: Option<File>,
}

fn open(args: &Run) -> Result<Opened> {
    let create = |path: &Option<PathBuf>| match path {
        Some(p) => File::create(p).map(Some).with_context(|| format!("create {}", p.display())),
        None => Ok(None),
    };
    let net = Arc::new(Supernet::load(args.model.as_deref().expect("clap demands --model"))?);
    let images = match (&args.dataset, &args.folder) {
        (Some(dir), _) => Some(Images::from_idx(dir, Split::Test, net.image_size())?),
        (_, Some(dir)) => Some(Images::from_folder(dir, net.image_size())?),
        _ => None,
    };
    let listener = match &args.serve {
        Some(p) => Some(serve::bind(p).with_context(|| format!("listen at {}", p.display()))?),
        None => None,
    };
    let schedule = match &args.schedule {
        Some(path) => {
            let file = path.display().to_string();
            let text = std::fs::read_to_string(path).with_context(|| format!("read {file}"))?;
            Schedule::recorded(&file, &text)?
        }
        None => Schedule::new(args.arrivals, args.rate, args.seed),
    };
    let (report, timeline) = (create(&args.report)?, create(&args.timeline)?);
    let batcher = Batcher::new(Arc::clone(&net), Kernel::best(), args.threads.into())?;
    Ok(Opened { net, batcher, images, schedule, listener, report, timeline })
}

fn give_up_root(args: &Run) -> Result<()> {
    if !privilege::is_root() {
        return Ok(());
    }
    let user = privilege::find(&args.user)?;
    if let Some(path) = &args.serve {
        let give = |p: &Path| {
            chown(p, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            std::fs::set_permissions(p, Permissions::from_mode(0o660))
        };
        give(path).with_context(|| format!("hand {} over to {}", path.display(), args.user))?;
    }
    privilege::become_user(user)?;
    info!(user = args.user, "gave up root");
    Ok(())
}

fn run(args: Run) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("catch signals")?;
    }
    let Opened { net, batcher, images, schedule, listener, report, timeline } = open(&args)?;
    give_up_root(&args)?;

    let kernel = Kernel::best();
    let threads = usize::from(args.threads);
    let floor = args.top1_floor.map(hundredths);
    let failsafe = net.failsafe(floor.unwrap_or(net.default_floor()));
    let fixed = match &args.fixed {
        Some(name) => Some(find_subnet(&net, "--fixed", name)?),
        None => None,
    };
    let batch = match args.batch {
        Batch::Images(k) => k,
        Batch::Auto => bench::calibrate(&net)?,
    };
    let follower = match fixed {
        Some(subnet) => Follower::fixed(subnet, threads),
        None => {
            Follower::new(net.subnets().len(), failsafe, threads, args.grace_ms.saturating_mul(1_000_000))
        }
    };
    let setup = Setup {
        name: args.name.clone(),
        network: net.name().to_owned(),
        manifest_sha256: net.digest(),
        kernel: net.engine().name(kernel),
        batch,
        threads,
        rate_hz: (images.is_some() && args.schedule.is_none()).then_some(args.rate),
        arrivals: args
            .schedule
            .as_ref()
            .map_or_else(|| format!("{:?}", args.arrivals).to_lowercase(), |path| path.display().to_string()),
        seed: args.seed,
        fixed: args.fixed.clone(),
        failsafe: net.subnets()[failsafe].name.clone(),
        deadline_ms: args.deadline_ms,
    };
    info!(kernel = setup.kernel, batch, failsafe = setup.failsafe, "ready");

    let worker = std::thread::current();
    let requests = match listener {
        Some(listener) => Some(serve::start(listener, Arc::clone(&net), worker.clone())?),
        None => None,
    };
    let link = if fixed.is_some() {
        None
    } else {
        let target = Target { latency_ns: args.deadline_ms.map(|ms| nanos(ms / 1e3)), top1_floor: floor };
        let hello = hello(&args.name, &net, failsafe, threads, batch, target);
        hello.check().context("--name, --deadline-ms or the manifest")?;
        Some(Link::new(args.socket.clone(), hello, worker)?)
    };
    let now = clock::now();
    let began = args.began_ns.unwrap_or(now);
    ensure!(began <= now, "--began-ns {began}: is in the future, it is {now} now");
    let stream =
        images.map(|images| Stream { images, schedule, batch, frames: args.frames.unwrap_or(u64::MAX) });
    let text = Worker::new(Parts {
        tally: Tally::new(setup, net.subnets(), timeline, began)?,
        batcher,
        follower,
        stream,
        requests,
        queue: args.queue.into(),
        drop: args.drop,
        link,
        stop,
        began,
        duration_ns: args.duration.map_or(u64::MAX, nanos),
    })
    .run()
    .context("write the time line")?;
    if let Some(path) = &args.serve {
        // Its folder may belong to root; the next start replaces what stays behind.
        let _ = std::fs::remove_file(path);
    }
    if let Some(mut file) = report {
        file.write_all(text.as_bytes()).context("write the report")?;
    }
    Ok(())
}

fn find_subnet(net: &Supernet, option: &str, name: &str) -> Result<usize> {
    let Some(subnet) = net.subnet(name) else {
        let names: Vec<_> = net.subnets().iter().map(|s| s.name.as_str()).collect();
        bail!("{option} {name}: {} has {}", net.name(), names.join(", "));
    };
    Ok(subnet)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 100, by the command line's rule"
)]
fn hundredths(percent: f64) -> u16 {
    (percent * 100.0).round() as u16
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "above 0, and a float's cast saturates"
)]
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn run_bench(args: &Bench) -> Result<()> {
    let net = Arc::new(Supernet::load(&args.model)?);
    let batch = match args.batch {
        Batch::Images(k) => k,
        Batch::Auto => bench::calibrate(&net)?,
    };
    let figures = bench::bench(&net, batch, args.frames, args.switches, args.best)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(());
    }
    println!("{}: frames of {batch} images, one thread", figures.network);
    for f in &figures.frames {
        println!(
            "  {:>5} {:>8}: {:8.3} ms (p10 {:.3}, p90 {:.3}, n {}), {:.2} MAC/ns",
            f.subnet, f.kernel, f.frame_ms_p50, f.frame_ms_p10, f.frame_ms_p90, f.n, f.macs_per_ns
        );
    }
    let s = &figures.switch;
    println!("  switch: p50 {} ns, p99 {} ns (n {})", s.switch_ns_p50, s.switch_ns_p99, s.n);
    println!(
        "  first image after it, beyond a later one: p50 {} ns, p99 {} ns",
        s.first_image_extra_ns_p50, s.first_image_extra_ns_p99
    );
    Ok(())
}

fn run_measure(args: &Measure) -> Result<()> {
    let net = Supernet::load(&args.model)?;
    let images = Images::from_idx(&args.dataset, Split::Test, net.image_size())?;
    let found = bench::measure(&net, &images, images.count(), Kernel::best())?;
    for s in &found.subnets {
        println!("{:>5}: {:.2} % of {}", s.name, f64::from(s.top1) / 100.0, found.images);
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&found)? + "\n")
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn run_profile(args: &Profile) -> Result<()> {
    let (manifest, _) = Manifest::read(&args.model)?;
    let net = Arc::new(Supernet::load(&args.model)?);
    let kernel = Kernel::best();
    let mut profile = profile::Profile::resume(&args.out, &net, kernel)?;
    let known = profile.batch();
    let batches = args.batches.iter().map(|b| match (b, known) {
        (Batch::Images(k), _) => Ok(*k),
        // One and the same in all of the file.
        (Batch::Auto, Some(k)) => Ok(k),
        (Batch::Auto, None) => bench::calibrate(&net),
    });
    let wanted = Wanted {
        threads: args.threads.iter().map(|t| usize::from(*t)).collect(),
        batches: batches.collect::<std::io::Result<_>>()?,
        noisy: args.noisy,
        at: args.at.clone(),
    };
    if args.wait {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
            .context("wait for standard input's end")?;
    }
    profile.measure(&args.out, &net, &manifest, kernel, &wanted)?;
    if args.at.is_none() {
        println!("{}, {}, {}", profile.network, profile.machine, profile.kernel);
    }
    for r in profile.rows.iter().filter(|r| r.at == args.at) {
        println!(
            "  {:>10}, {} threads, batch {:>3}: {:9.3} ms (p10 {:.3}, p90 {:.3}, n {})",
            r.subnet, r.threads, r.batch, r.p50_ms, r.p10_ms, r.p90_ms, r.frames
        );
    }
    if args.at.is_some() {
        return Ok(());
    }
    for p in &profile.predicted {
        println!(
            "  {:>10}: layers of the others predict {:.3} ms, it takes {:.3} ({:+.1} %); {:.0} % covered",
            p.subnet,
            p.predicted_ms,
            p.measured_ms,
            (p.predicted_ms / p.measured_ms - 1.0) * 100.0,
            p.covered * 100.0
        );
    }
    println!("written: {}", args.out.display());
    Ok(())
}

fn run_export(args: &Export) -> Result<()> {
    let (manifest, _) = Manifest::read(&args.model)?;
    let net = Supernet::load(&args.model)?;
    let elastic = net.engine().elastic().context("the network is in ONNX already")?;
    let graphs = manifest.graphs().map_err(|p| anyhow::anyhow!(p.join("; ")))?;
    let graph = &graphs[find_subnet(&net, "--subnet", &args.subnet)?];
    std::fs::write(&args.out, export::onnx(graph, elastic.store()))
        .with_context(|| format!("write {}", args.out.display()))
}
