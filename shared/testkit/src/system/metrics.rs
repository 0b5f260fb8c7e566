//! `/metrics`, read as Prometheus would.

use std::collections::BTreeMap;

use super::{Answer, System};

/// One look at the metrics of every process of a system.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
    samples: Vec<Sample>,
}

/// A line of the exposition format.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    fn read(text: String) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples =
            lines.map(|line| read_sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect();
        Self { text, samples }
    }

    /// All of it, as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Whether there is any sample, or a declaration, of that name.
    pub fn has(&self, name: &str) -> bool {
        self.text.lines().any(|line| line.starts_with(&format!("# TYPE {name} ")))
    }

    /// The sum of all samples of that name which carry all of these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &&Sample| {
            let has =
                |(label, value): &(&str, &str)| sample.labels.get(*label).is_some_and(|own| own == value);
            sample.name == name && labels.iter().all(has)
        };
        self.samples.iter().filter(carries).map(|sample| sample.value).sum()
    }
}

/// `name{label="value",…} 1.5`
fn read_sample(line: &str) -> Option<Sample> {
    let (head, value) = line.rsplit_once(' ')?;
    let (name, mut rest) =
        head.split_once('{').map_or((head, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
    let mut labels = BTreeMap::new();
    while let Some((label, after)) = rest.split_once("=\"") {
        let (text, after) = after.split_once('"')?;
        labels.insert(label.to_owned(), text.to_owned());
        rest = after.trim_start_matches(',');
    }
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

impl System {
    /// Reads the metrics of every process.
    ///
    /// # Panics
    /// When one does not answer.
    pub async fn metrics(&self) -> Metrics {
        let mut text = String::new();
        for addr in self.ports.metrics() {
            let request = self.http.get(format!("http://{addr}/metrics"));
            let answer = Answer::to(request).await.expect("metrics are served").expect(200);
            text.push_str(&String::from_utf8(answer.body).expect("metrics are text"));
        }
        Metrics::read(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_samples_with_and_without_labels() {
        let metrics = Metrics::read(
            "# TYPE a counter\na{x=\"1\",y=\"two three\"} 2\na{x=\"2\",y=\"\"} 3.5\nb 1e3\n".to_owned(),
        );
        assert_eq!(metrics.samples().len(), 3);
        assert!((metrics.sum("a", &[]) - 5.5).abs() < f64::EPSILON);
        assert!((metrics.sum("a", &[("y", "two three")]) - 2.0).abs() < f64::EPSILON);
        assert!((metrics.sum("b", &[]) - 1000.0).abs() < f64::EPSILON);
        assert!(metrics.has("a") && !metrics.has("c"));
    }
}
