//! `/metrics`, read as Prometheus would.

use std::collections::BTreeMap;

use super::{Answer, Service, System};

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

    /// The replicas of one service as one: what each counts by itself is added up, and of gauges, which all of them read from
    /// the same store, the greatest holds.
    fn combined(replicas: Vec<Self>) -> Self {
        let mut replicas = replicas.into_iter();
        let mut all = replicas.next().unwrap_or_else(|| Self::read(String::new()));
        for replica in replicas {
            for sample in &replica.samples {
                let same = |known: &&mut Sample| known.name == sample.name && known.labels == sample.labels;
                match all.samples.iter_mut().find(same) {
                    None => all.samples.push(sample.clone()),
                    Some(known) if replica.is_gauge(&sample.name) => {
                        known.value = known.value.max(sample.value);
                    }
                    Some(known) => known.value += sample.value,
                }
            }
            all.text.push_str(&replica.text);
        }
        all
    }

    /// Those of several services, none of which says anything of another.
    fn together(services: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::read(String::new());
        for service in services {
            all.text.push_str(&service.text);
            all.samples.extend(service.samples);
        }
        all
    }

    fn is_gauge(&self, name: &str) -> bool {
        self.text.lines().any(|line| line == format!("# TYPE {name} gauge"))
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
    /// Reads the metrics of every process. Those of replicas are put together as on a dashboard: counters and histograms are
    /// added up, of gauges the greatest holds.
    ///
    /// # Panics
    /// When one does not answer.
    pub async fn metrics(&self) -> Metrics {
        let mut replicas: BTreeMap<&[Service], Vec<Metrics>> = BTreeMap::new();
        for (process, (services, _)) in self.programs.iter().enumerate() {
            replicas.entry(services).or_default().push(self.metrics_of_process(process).await);
        }
        Metrics::together(replicas.into_values().map(Metrics::combined))
    }

    /// Reads the metrics of one process of a service; those of a replicated system are numbered from 0.
    ///
    /// # Panics
    /// When there is no such process, or it does not answer.
    pub async fn metrics_of_replica(&self, service: Service, replica: usize) -> Metrics {
        self.metrics_of_process(self.process_of(service, replica)).await
    }

    async fn metrics_of_process(&self, process: usize) -> Metrics {
        let request = self.http.get(format!("http://{}/metrics", self.listeners.metrics_addr(process)));
        let answer = Answer::to(request).await.expect("metrics are served").expect(200);
        Metrics::read(String::from_utf8(answer.body).expect("metrics are text"))
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

    #[test]
    fn replicas_are_added_up_but_for_gauges() {
        let replica = |count: u32, size: u32, only: &str| {
            Metrics::read(format!(
                "# TYPE a_total counter\na_total{{x=\"1\"}} {count}\n\
                 # TYPE size gauge\nsize {size}\n\
                 # TYPE took histogram\ntook_bucket{{le=\"1\"}} {count}\ntook_sum 0.5\ntook_count {count}\n{only}"
            ))
        };
        let lifecycle = Metrics::combined(vec![replica(2, 7, ""), replica(3, 5, "b_total 1\n")]);
        let all = Metrics::together([lifecycle, Metrics::read("c 4\n".to_owned())]);
        let expected = [
            ("a_total", 5.0),
            ("size", 7.0),
            ("took_bucket", 5.0),
            ("took_sum", 1.0),
            ("took_count", 5.0),
            ("b_total", 1.0),
            ("c", 4.0),
        ];
        let found: Vec<_> = all.samples().iter().map(|sample| (&*sample.name, sample.value)).collect();
        assert_eq!(found, expected);
    }
}
