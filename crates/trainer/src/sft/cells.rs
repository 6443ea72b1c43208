//! Learning what each vision token shows, by throw-away linear heads on the merged tokens: it stands in for the
//! pre-training of a vision tower that starts from random weights.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use foveate_policy::{AdamW, Vlm};
use serde::Deserialize;
use serde_json::Value;
use tch::{Kind, Reduction, Tensor};

use super::{Learnt, Objective};
use crate::{
    data::{Examples, Prepared},
    error::UserContext,
};

/// One line of a labels file: for each temporal grid, each of its tokens' attributes by name.
#[derive(Deserialize)]
struct Line {
    id: String,
    cells: Vec<Vec<BTreeMap<String, Value>>>,
}

/// A linear head for one attribute.
struct Probe {
    attribute: String,
    weight: Tensor, // [classes, D]
    bias: Tensor,   // [classes]
}

pub(super) struct Cells {
    /// Class of every token for every probe: `[probes][tokens]`.
    labels: HashMap<String, Vec<Vec<i64>>>,
    probes: Vec<Probe>,
}

impl Cells {
    /// Reads the labels; every attribute that occurs gets a head, every value of it a class.
    pub(super) fn open(path: &Path, policy: &Vlm, seed: i64) -> Result<Self> {
        let lines = read(path).user()?;
        let mut classes: BTreeMap<&str, BTreeMap<String, i64>> = BTreeMap::new();
        for cell in lines.iter().flat_map(|line| line.cells.iter().flatten()) {
            for (attribute, value) in cell {
                let known = classes.entry(attribute).or_default();
                let next = known.len() as i64;
                known.entry(value.to_string()).or_insert(next);
            }
        }
        let label = |line: &Line, attribute: &str| {
            let of =
                |cell: &BTreeMap<String, Value>| Some(*classes.get(attribute)?.get(&cell.get(attribute)?.to_string())?);
            let all: Option<Vec<i64>> = line.cells.iter().flatten().map(of).collect();
            all.with_context(|| format!("{}: {}: a cell without {attribute}", path.display(), line.id)).user()
        };
        let mut labels = HashMap::new();
        for line in &lines {
            let rows = classes.keys().map(|attribute| label(line, attribute)).collect::<Result<Vec<_>>>()?;
            labels.insert(line.id.clone(), rows);
        }
        tch::manual_seed(seed);
        let width = policy.config().text.hidden_size;
        let options = (Kind::Float, policy.device());
        let probes = classes.iter().map(|(attribute, known)| {
            let count = known.len() as i64;
            Probe {
                attribute: (*attribute).to_owned(),
                weight: (Tensor::randn([count, width], options) * (width as f64).powf(-0.5)).set_requires_grad(true),
                bias: Tensor::zeros([count], options).set_requires_grad(true),
            }
        });
        Ok(Self { labels, probes: probes.collect() })
    }
}

fn read(path: &Path) -> Result<Vec<Line>> {
    let reader = BufReader::new(fs_err::File::open(path)?);
    let lines = reader.lines().enumerate().map(|(number, line)| {
        serde_json::from_str(&line?).with_context(|| format!("{}:{}", path.display(), number + 1))
    });
    lines.collect()
}

impl Objective for Cells {
    type Source = Examples;

    fn learn(&mut self, policy: &Vlm, optimizer: &AdamW, batch: &[Prepared]) -> Result<Learnt> {
        let mut features = Vec::new();
        let mut targets: Vec<Vec<i64>> = vec![Vec::new(); self.probes.len()];
        for sample in batch {
            let id = &sample.example.id;
            let labels = self.labels.get(id).with_context(|| format!("no labels for example {id}"))?;
            let tokens = policy.features(&sample.prompt.media);
            let (expected, found) = (tokens.size()[0], labels.first().map_or(0, Vec::len) as i64);
            ensure!(expected == found, "example {id}: expected {expected} labelled tokens, found {found}");
            features.push(tokens);
            targets.iter_mut().zip(labels).for_each(|(all, labels)| all.extend(labels));
        }
        let features = Tensor::cat(&features, 0).to_kind(Kind::Float);
        let mut loss = Tensor::zeros([], (Kind::Float, features.device()));
        let mut right = 0.0;
        for (probe, target) in self.probes.iter().zip(&targets) {
            let target = Tensor::from_slice(target).to_device(features.device());
            let logits = features.linear(&probe.weight, Some(&probe.bias));
            let likeliest = logits.argmax(-1, false).eq_tensor(&target);
            right += likeliest.to_kind(Kind::Float).mean(Kind::Double).double_value(&[]) / self.probes.len() as f64;
            loss += logits.cross_entropy_loss::<&Tensor>(&target, None, Reduction::Mean, -100, 0.0);
        }
        loss.backward();
        optimizer.accumulate();
        Ok(Learnt { loss: loss.double_value(&[]), accuracy: right })
    }

    fn parameters(&self) -> Vec<(String, Tensor)> {
        let named = |probe: &Probe| {
            let name = |part: &str| format!("probe.{}.{part}", probe.attribute);
            [(name("weight"), probe.weight.shallow_clone()), (name("bias"), probe.bias.shallow_clone())]
        };
        self.probes.iter().flat_map(named).collect()
    }
}
