//! The results: one JSON object, or a table in plain text.

use std::fmt;

use serde::Serialize;

use super::decode_steps::DecodeStep;
use super::machine::{Machine, Memory};
use super::requests::{RequestCase, StagesMs};

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    pub(super) new_tokens: usize,
    pub(super) repeats: usize,
    pub(super) stages_ms: StagesMs,
    pub(super) decode_steps: Vec<DecodeStep>,
    pub(super) requests: Vec<RequestCase>,
    pub(super) memory: Memory,
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { new_tokens, repeats, .. } = self;
        writeln!(f, "machine\n{}", columns(&machine_lines(&self.machine), Align::Left))?;
        writeln!(f, "stages of a request that comes alone, median of {repeats}")?;
        writeln!(f, "{}", columns(&stage_lines(&self.stages_ms), Align::Right))?;
        writeln!(f, "decode step, medians: the run alone, the same run in the engine, and what the engine adds to it")?;
        write!(f, "{}", columns(&step_lines(&self.decode_steps), Align::Right))?;
        if self.decode_steps.iter().any(|step| step.overhead_ms.is_none()) {
            writeln!(
                f,
                "  -  so many rows cannot be active together; see --slots, --kv-tokens, --max-len, --queue-rows"
            )?;
        }
        writeln!(f, "\nrequests, answers of {new_tokens} tokens, {repeats} times each")?;
        writeln!(f, "{}", columns(&request_lines(&self.requests), Align::Right))?;
        write!(f, "memory\n{}", columns(&memory_lines(&self.memory), Align::Right))
    }
}

fn machine_lines(machine: &Machine) -> Vec<Vec<String>> {
    let Machine { processor, threads, library, build, bundle, precision, slots, max_len, kv_tokens } = machine;
    let line = |name: &str, value: String| vec![name.to_owned(), value];
    vec![
        line("processor", processor.clone()),
        line("threads", threads.to_string()),
        line("ONNX Runtime", format!("{library}, {build}")),
        line("bundle", bundle.clone()),
        line(
            "precision",
            format!(
                "vision encoder {}, Q-Former {}, decoder {}",
                precision.vision_encoder, precision.qformer, precision.decoder
            ),
        ),
        line("slots", format!("{slots} of {max_len} positions, {kv_tokens} together")),
    ]
}

fn stage_lines(stages: &StagesMs) -> Vec<Vec<String>> {
    let line = |name: &str, ms| vec![name.to_owned(), number(ms), "ms".to_owned()];
    vec![
        line("preprocess", stages.preprocess),
        line("vision encoder", stages.vision_encoder),
        line("Q-Former", stages.qformer),
        line("prefill", stages.prefill),
    ]
}

fn step_lines(steps: &[DecodeStep]) -> Vec<Vec<String>> {
    let title = ["", "bare ms", "in engine ms", "ratio", "overhead ms"].map(str::to_owned).to_vec();
    let line = |step: &DecodeStep| {
        let name = format!("{} row{}", step.rows, if step.rows == 1 { "" } else { "s" });
        let numbers = [step.bare_ms, step.in_engine_ms, step.ratio, step.overhead_ms].map(number);
        [name].into_iter().chain(numbers).collect()
    };
    [title].into_iter().chain(steps.iter().map(line)).collect()
}

fn request_lines(cases: &[RequestCase]) -> Vec<Vec<String>> {
    let titles = ["", "seconds", "requests/s", "tokens/s", "p50 ms", "p90 ms", "p99 ms", "first token ms"];
    let line = |case: &RequestCase| {
        let (rates, latency) = ([case.seconds, case.requests_per_s, case.new_tokens_per_s], &case.latency_ms);
        let times = [latency.p50, latency.p90, latency.p99, case.first_token_ms];
        [case.name.to_owned()].into_iter().chain(rates.into_iter().chain(times).map(number)).collect()
    };
    [titles.map(str::to_owned).to_vec()].into_iter().chain(cases.iter().map(line)).collect()
}

fn memory_lines(memory: &Memory) -> Vec<Vec<String>> {
    let line = |name: &str, bytes: Option<u64>| {
        let mib = bytes.map_or_else(missing, |bytes| (bytes >> 20).to_string());
        vec![name.to_owned(), mib, "MiB".to_owned()]
    };
    vec![
        line("resident", memory.resident_bytes),
        line("at most", memory.peak_resident_bytes),
        line("planned", Some(memory.planned_bytes)),
        line("of it weights", Some(memory.planned_weights_bytes)),
        line("of it KV cache", Some(memory.planned_kv_cache_bytes)),
    ]
}

/// Four digits or so, because more are noise.
fn number(value: Option<f64>) -> String {
    match value {
        None => missing(),
        Some(value) if value < 10.0 => format!("{value:.3}"),
        Some(value) if value < 1000.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn missing() -> String {
    "-".to_owned()
}

/// Where the columns behind the first stand; that one is always on the left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// Indented lines whose columns are as wide as their widest cell.
fn columns(lines: &[Vec<String>], align: Align) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match align {
            Align::Right if column > 0 => format!("  {cell:>width$}"),
            _ => format!("  {cell:<width$}"),
        });
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Precision, Precisions};
    use crate::cli::bench::requests::Percentiles;

    fn results() -> Results {
        let int8 = Precision::Int8;
        let measured = |rows, ms: f64| DecodeStep {
            rows,
            bare_ms: Some(ms),
            in_engine_ms: Some(ms),
            ratio: Some(1.0),
            overhead_ms: Some(ms / 1000.0),
        };
        let none = DecodeStep { rows: 16, bare_ms: None, in_engine_ms: None, ratio: None, overhead_ms: None };
        Results {
            machine: Machine {
                processor: "EPYC".into(),
                threads: 2,
                library: "libonnxruntime.so.1.31.1".into(),
                build: "build type=Release",
                bundle: "tiny".into(),
                precision: Precisions { vision_encoder: int8, qformer: Precision::Fp32, decoder: int8 },
                slots: 8,
                max_len: 160,
                kv_tokens: 1000,
            },
            new_tokens: 17,
            repeats: 5,
            stages_ms: StagesMs {
                preprocess: Some(7.25),
                vision_encoder: Some(612.34),
                qformer: Some(80.1),
                prefill: Some(1234.5),
            },
            decode_steps: vec![measured(1, 131.0), measured(8, 222.2), none],
            requests: vec![RequestCase {
                name: "one alone",
                requests: 1,
                seconds: Some(3.6),
                requests_per_s: Some(0.278),
                new_tokens_per_s: Some(4.72),
                latency_ms: Percentiles { p50: Some(3600.0), p90: Some(3700.0), p99: Some(3700.0) },
                first_token_ms: Some(1934.0),
            }],
            memory: Memory {
                resident_bytes: Some(4300 << 20),
                peak_resident_bytes: None,
                planned_bytes: 21_000 << 20,
                planned_weights_bytes: 3900 << 20,
                planned_kv_cache_bytes: 16_000 << 20,
            },
        }
    }

    #[test]
    fn the_table_has_a_column_for_each_number() {
        let table = results().to_string();
        for line in [
            "  ONNX Runtime  libonnxruntime.so.1.31.1, build type=Release\n",
            "  precision     vision encoder int8, Q-Former fp32, decoder int8\n",
            "  preprocess      7.250  ms\n  vision encoder  612.3  ms\n",
            "           bare ms  in engine ms  ratio  overhead ms\n  1 row      131.0         131.0  1.000        0.131\n",
            "  16 rows        -             -      -            -\n  -  so many rows cannot",
            "             seconds  requests/s  tokens/s  p50 ms  p90 ms  p99 ms  first token ms\n",
            "  one alone    3.600       0.278     4.720    3600    3700    3700            1934\n",
            "  resident         4300  MiB\n  at most             -  MiB\n",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
    }
}
