use super::*;
use crate::bench::measure;
use crate::data::{Images, Split};
use crate::fixture::{Net, image};

fn logits(net: &Supernet, subnet: usize, kernel: Kernel, image: &[u8]) -> Vec<u32> {
    let mut state = State::new(net, kernel);
    net.logits(subnet, image, &mut state).iter().map(|l| l.to_bits()).collect()
}

fn shipped() -> Supernet {
    Supernet::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/mlcad-fmnist.toml")).unwrap()
}

#[test]
fn a_subnetwork_does_not_change_with_the_groups_behind_it() {
    let whole = Net::new(4, 1);
    let mut zeroed = whole.clone();
    for (name, (_, values)) in &mut zeroed.tensors {
        if !name.starts_with("group0") {
            values.fill(0.0);
        }
    }
    let mut alone = Net::new(1, 0);
    let first = whole.tensors.iter().filter(|(n, _)| n.starts_with("group0"));
    alone.tensors = first.map(|(n, t)| (n.clone(), t.clone())).collect();
    let (whole, zeroed, alone) = (whole.load(), zeroed.load(), alone.load());
    for kernel in [Some(Kernel::naive()), Some(Kernel::portable()), Kernel::avx2()].into_iter().flatten() {
        for seed in 0..20 {
            let image = image(seed);
            let expected = logits(&whole, 0, kernel, &image);
            assert_eq!(logits(&zeroed, 0, kernel, &image), expected, "{kernel:?}");
            assert_eq!(logits(&alone, 0, kernel, &image), expected, "{kernel:?}");
            // The comparison can fail: the second sub-network does depend on them.
            assert_ne!(logits(&zeroed, 1, kernel, &image), logits(&whole, 1, kernel, &image));
        }
    }
}

#[test]
fn a_switch_leaves_no_trace_in_a_workers_memory() {
    let net = Net::new(4, 2).load();
    let mut state = State::new(&net, Kernel::best());
    for (seed, subnet) in [(0, 3), (1, 0), (2, 2), (3, 0), (4, 3), (5, 1)] {
        let image = image(seed);
        let reused: Vec<u32> = net.logits(subnet, &image, &mut state).iter().map(|l| l.to_bits()).collect();
        assert_eq!(reused, logits(&net, subnet, Kernel::best(), &image));
    }
}

#[test]
fn confidence_is_the_softmax_of_the_answer() {
    let net = Net::new(1, 3).load();
    let mut state = State::new(&net, Kernel::naive());
    let l: Vec<f64> = net.logits(0, &image(1), &mut state).iter().map(|x| f64::from(*x)).collect();
    let answer = net.infer(0, &image(1), &mut state);
    let expected = l[usize::from(answer.class)].exp() / l.iter().map(|x| x.exp()).sum::<f64>();
    assert!((f64::from(answer.confidence) - expected).abs() < 1e-5);
    assert!(l.iter().all(|x| *x <= l[usize::from(answer.class)]));
}

#[test]
fn the_failsafe_is_the_smallest_that_meets_the_floor() {
    let net = Net::new(3, 0).load(); // top-1 70, 75, 80 %
    assert_eq!(net.default_floor(), 7000);
    for (floor, subnet) in [(0, 0), (7000, 0), (7001, 1), (8000, 2), (9900, 2)] {
        assert_eq!(net.failsafe(floor), subnet, "floor {floor}");
    }
}

#[test]
fn weights_that_were_cut_short_are_refused() {
    let mut net = Net::new(2, 0);
    net.cut_weights_to = Some(1000);
    let error = net.refused();
    assert!(error.contains("net.safetensors: 1000 bytes; the manifest says "), "{error}");
    // Even if the manifest agrees with the short file.
    let dir = tempfile::tempdir().unwrap();
    let manifest = net.write(dir.path());
    let bytes = std::fs::read(dir.path().join("net.safetensors")).unwrap();
    let text = std::fs::read_to_string(&manifest).unwrap();
    let fields = |line: &str| match line.split_once(" = ") {
        Some(("bytes", _)) => "bytes = 1000\n".to_owned(),
        Some(("sha256", _)) => format!("sha256 = \"{}\"\n", hex(&Sha256::digest(&bytes))),
        _ => format!("{line}\n"),
    };
    std::fs::write(&manifest, text.lines().map(fields).collect::<String>()).unwrap();
    let error = Supernet::load(&manifest).unwrap_err().to_string();
    assert!(error.contains("net.safetensors: no safetensors file"), "{error}");
}

#[test]
fn weights_of_another_digest_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = Net::new(1, 0).write(dir.path());
    let file = dir.path().join("net.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = Supernet::load(&manifest).unwrap_err().to_string();
    assert!(error.contains("net.safetensors: sha256 ") && error.contains("; the manifest says "), "{error}");
}

#[test]
fn a_missing_weights_file_is_refused_by_name() {
    let error = Net::new(1, 0).edit("net.safetensors", "gone.safetensors").refused();
    assert!(error.contains("gone.safetensors: No such file"), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut net = Net::new(2, 0);
        net.tensors.get_mut("group1.c1.weight").unwrap().1[7] = value;
        let error = net.refused();
        let expected = format!("tensor \"group1.c1.weight\": value 7 is {value}; every weight is finite");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn tensors_that_do_not_fit_the_manifest_are_refused() {
    let mut net = Net::new(1, 0);
    net.tensors.get_mut("group0.fc.weight").unwrap().0 = vec![3, 64];
    let error = net.refused();
    assert!(
        error.contains("tensor \"group0.fc.weight\": shape [3, 64]; the manifest's layers make [64, 3]"),
        "{error}"
    );

    let mut net = Net::new(2, 0);
    net.tensors.remove("group1.c0.bias");
    let error = net.refused();
    assert!(error.contains("tensor \"group1.c0.bias\": "), "{error}");

    let mut net = Net::new(1, 0);
    net.tensors.insert("group0.extra".into(), (vec![1], vec![0.0]));
    let error = net.refused();
    assert!(error.contains("7 tensors; the manifest's layers make 6"), "{error}");
}

#[test]
fn broken_manifests_are_refused_with_the_rule() {
    let cases = [
        ("kernel = 5", "kernel = 4", "conv \"c0\": kernel 4; it is 1, 3, 5 or 7"),
        ("channels = 16", "channels = 12", "conv \"c1\": 12 channels; a multiple of 8"),
        ("pool = 2", "pool = 0", "conv \"c0\": pool 0; it is 1 to 4"),
        ("height = 10", "height = 0", "input: 0 x 10; each side is 1 to 256"),
        ("height = 10", "height = 2", "conv \"c1\": pool 2 leaves nothing of 1 x 5"),
        ("std = 0.25", "std = 0.0", "std above 0"),
        ("mean = 0.5", "mean = nan", "both finite"),
        ("\"net.safetensors\"", "\"../net.safetensors\"", "a file name without a folder"),
        ("groups = 2", "groups = 1", "list them by rising cost"),
        ("\"n2\"", "\"n1\"", "names are unique"),
        ("top1 = 7000", "top1 = 10001", "at most 10000"),
        ("macs = 48992", "macs = 48991", "48991 MACs and 1571 parameters; its layers make 48992 and 1571"),
        ("top1-floor", "top2-floor", "unknown field `top2-floor`"),
        ("\"group-convolution\"", "\"transformer\"", "unknown variant `transformer`"),
        ("name = \"net\"", "name = net", "net.toml: TOML parse error at line 1"),
    ];
    for (from, to, rule) in cases {
        let error = Net::new(2, 0).edit(from, to).refused();
        assert!(error.contains("net.toml: ") && error.contains(rule), "{to}: {error}");
    }
}

#[test]
fn all_problems_of_a_manifest_are_told_at_once() {
    let error = Net::new(2, 0).edit("kernel = 5", "kernel = 4").edit("height = 10", "height = 0").refused();
    assert!(error.contains("kernel 4") && error.contains("input: 0 x 10"), "{error}");
}

#[test]
fn a_missing_manifest_is_refused_by_name() {
    let error = Supernet::load(Path::new("no/such.toml")).unwrap_err().to_string();
    assert!(error.contains("no/such.toml: No such file"), "{error}");
}

#[test]
fn the_shipped_network_rises_in_accuracy_and_stays_small() {
    let net = shipped();
    let names: Vec<_> = net.subnets().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["25%", "50%", "75%", "100%"]);
    for pair in net.subnets().windows(2) {
        assert!(pair[0].top1 < pair[1].top1 && pair[0].macs < pair[1].macs, "{pair:?}");
    }
    assert!(net.subnets()[3].macs <= 2_000_000);
}

#[test]
fn the_shipped_network_is_as_accurate_as_its_manifest_says() {
    let folder = Path::new("/usr/share/datasets/fashion-mnist");
    if !folder.exists() {
        println!("skipped: needs dataset-fashion-mnist");
        return;
    }
    let net = shipped();
    let images = Images::from_idx(folder, Split::Test, net.image_size()).unwrap();
    // Of 500 images the share of right answers has a standard error of 1.5 points at 87 %: three of them.
    let found = measure(&net, &images, 500, Kernel::best());
    for (found, subnet) in found.subnets.iter().zip(net.subnets()) {
        let gap = found.top1.abs_diff(subnet.top1);
        assert!(gap <= 450, "{}: {} measured, {} in the manifest", subnet.name, found.top1, subnet.top1);
    }
    // The fast form answers as the definitions do.
    let (mut fast, mut naive) = (State::new(&net, Kernel::best()), State::new(&net, Kernel::naive()));
    for n in 0..20 {
        let (pixels, _) = images.get(n);
        let expected = net.logits(3, pixels, &mut naive);
        for (a, b) in net.logits(3, pixels, &mut fast).iter().zip(expected) {
            assert!((a - b).abs() < 1e-3, "{a} and {b}");
        }
    }
}
