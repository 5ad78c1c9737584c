use super::*;
use crate::fixture::{Net, PIXELS, image};
use std::time::Duration;

/// A served socket, its worker played by a thread that answers with `reply`.
fn serve(
    reply: impl Fn(&Request) -> Option<Reply> + Send + 'static,
) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = bind(&path).unwrap();
    let net = Arc::new(Net::new(2, 1).load());
    std::thread::spawn(move || {
        let requests = start(listener, net, std::thread::current()).unwrap();
        while let Ok(request) = requests.recv() {
            if let Some(reply) = reply(&request) {
                request.answer(reply);
            }
        }
    });
    (dir, path)
}

fn answer(request: &Request) -> Option<Reply> {
    let answer = Answer { class: u16::from(request.pixels[0]) % 3, confidence: 0.5 };
    Some(Reply::Answer { answer, subnet: 1, seq: 12, done: request.arrived + 512_000 })
}

struct Client(UnixStream, BufReader<UnixStream>);

impl Client {
    fn new(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self(stream, reader)
    }
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
    fn ask(&mut self, line: &str) -> String {
        self.0.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.hear()
    }
}

fn list(image: &[u8]) -> String {
    format!("{{\"image\": {image:?}}}")
}

#[test]
fn a_request_is_answered_in_both_forms() {
    let (_dir, path) = serve(answer);
    let mut client = Client::new(&path);
    let pixels = image(1);
    let class = pixels[0] % 3;
    let label = ["a", "b", "c"][usize::from(class)];
    let expected = format!(
        r#"{{"class":{class},"label":"{label}","confidence":0.5,"subnet":"n2","seq":12,"latency_us":512}}"#
    );
    assert_eq!(client.ask(&list(&pixels)), expected);
    assert_eq!(client.ask(&format!("{{\"image\": \"{}\"}}", STANDARD.encode(&pixels))), expected);
}

#[test]
fn a_bad_request_gets_the_rule_and_the_connection_is_served_on() {
    let (_dir, path) = serve(answer);
    let mut client = Client::new(&path);
    let mut wrong = vec![0.to_string(); PIXELS];
    wrong[3] = "256".into();
    let cases = [
        ("hello".into(), "no JSON"),
        (String::new(), "no JSON"),
        ("[1]".into(), "no object; a request is"),
        ("{}".into(), "no image; a request is"),
        (r#"{"image": 7}"#.into(), "image: neither text nor list"),
        (r#"{"image": "", "model": 1}"#.into(), r#"unknown key \"model\""#),
        (r#"{"image": "*"}"#.into(), "image: no base64"),
        (list(&[1; PIXELS - 1]), "image: 99 pixels; the network takes 100"),
        (r#"{"image": "AAAA"}"#.into(), "image: 3 pixels; the network takes 100"),
        (format!("{{\"image\": [{}]}}", wrong.join(",")), "image[3]: 256; a pixel is 0 to 255"),
        (r#"{"image": [-1]}"#.into(), "image[0]: -1; a pixel is 0 to 255"),
        (r#"{"image": [1.5]}"#.into(), "image[0]: 1.5; a pixel is 0 to 255"),
        (format!("{{\"image\": \"{}\"}}", "A".repeat(100_000)), "a line of more than 756 bytes"),
    ];
    for (line, rule) in cases {
        let reply = client.ask(&line);
        assert!(reply.starts_with("{\"error\":\"") && reply.contains(rule), "{line:.50}: {reply}");
    }
    assert!(client.ask(&list(&image(1))).starts_with("{\"class\":"));
}

#[test]
fn a_dropped_request_is_told_so() {
    let (_dir, path) = serve(|_| Some(Reply::Dropped));
    assert!(Client::new(&path).ask(&list(&image(1))).contains("dropped: the queue is full"));
}

#[test]
fn a_request_that_the_worker_lets_go_gets_an_error_not_silence() {
    let (_dir, path) = serve(|_| None);
    assert!(Client::new(&path).ask(&list(&image(1))).contains("the runner is ending"));
}

#[test]
fn connections_beyond_the_bound_are_turned_away() {
    let (_dir, path) = serve(answer);
    // An answer from each shows that it is being served.
    let mut open: Vec<Client> = (0..CONNECTIONS_MAX).map(|_| Client::new(&path)).collect();
    for client in &mut open {
        assert!(client.ask(&list(&image(1))).starts_with("{\"class\":"));
    }
    assert!(Client::new(&path).hear().contains("32 connections are open"));
    assert!(open[0].ask(&list(&image(1))).starts_with("{\"class\":"));
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(bind(&path).unwrap());
    let living = bind(&path).unwrap();
    assert_eq!(bind(&path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(living);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    assert!(bind(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}
