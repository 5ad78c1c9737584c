//! Figures in the form that `tests/evidence` reads.

use serde_json::{Value, json};

/// Nearest rank.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank"
    )]
    let rank = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len());
    sorted[rank - 1]
}

/// A measured figure, smaller is better; with a goal or without.
pub fn row(name: &str, value: f64, unit: &str, n: usize, goal: Option<f64>) -> Value {
    json!({"name": name, "value": value, "unit": unit, "n": n, "p10": null, "p90": null,
           "kind": "measured", "goal": goal, "better": "lower"})
}

/// The median of samples, with their spread.
pub fn median(name: &str, samples: &[f64], unit: &str, goal: Option<f64>) -> Value {
    let mut row = row(name, quantile(samples, 0.5), unit, samples.len(), goal);
    row["p10"] = quantile(samples, 0.1).into();
    row["p90"] = quantile(samples, 0.9).into();
    row
}

/// Prints them: as JSON, or for people.
pub fn print(rows: &[Value]) {
    if std::env::args().any(|a| a == "--json") {
        println!("{}", serde_json::to_string_pretty(rows).expect("rows are JSON"));
        return;
    }
    for r in rows {
        let show = |x: f64| if x.abs() < 1e-3 && x != 0.0 { format!("{x:.1e}") } else { format!("{x:.3}") };
        let number = |key: &str| r[key].as_f64().map_or_else(String::new, show);
        let (name, unit) = (r["name"].as_str().unwrap_or(""), r["unit"].as_str().unwrap_or(""));
        let goal = if r["goal"].is_null() { String::new() } else { format!("   (goal {})", r["goal"]) };
        println!("{name:<66} {:>10} {unit:<6} [{}, {}]{goal}", number("value"), number("p10"), number("p90"));
    }
}
