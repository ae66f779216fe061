//! Adam with L2 regularisation in the gradient: what `PyTorch`'s `Adam(weight_decay=..)` does and the papers used.
//!
//! Not `AdamW` (which candle-nn has): there the decay by-passes the moments and acts far more strongly at these settings. The moments are
//! open to a checkpoint, so that a resumed run goes on as if it had never stopped.

use candle_core::{Result, Tensor, Var, backprop::GradStore};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The state of one run: variables with their two moments.
#[derive(Debug)]
pub(super) struct Adam {
    entries: Vec<Entry>,
    steps: i32,
    weight_decay: f64,
}

#[derive(Debug)]
struct Entry {
    name: String,
    variable: Var,
    first: Tensor,
    second: Tensor,
}

impl Adam {
    pub(super) fn new(variables: Vec<(String, Var)>, weight_decay: f64) -> Result<Self> {
        let entry = |(name, variable): (String, Var)| {
            let zeros = variable.zeros_like()?;
            Ok(Entry { name, variable, first: zeros.clone(), second: zeros })
        };
        let entries = variables.into_iter().map(entry).collect::<Result<_>>()?;
        Ok(Adam { entries, steps: 0, weight_decay })
    }

    /// One step against the weighted mean of gradients, one for each part of a batch.
    pub(super) fn step(&mut self, parts: &[(GradStore, f64)], rate: f64) -> Result<()> {
        self.steps += 1;
        let (bias1, bias2) = (1.0 - BETA1.powi(self.steps), 1.0 - BETA2.powi(self.steps));
        for entry in &mut self.entries {
            let Some(gradient) = mean(parts, &entry.variable)? else { continue };
            let value = entry.variable.detach();
            let gradient = (gradient + (&value * self.weight_decay)?)?;
            entry.first = ((&entry.first * BETA1)? + (&gradient * (1.0 - BETA1))?)?;
            entry.second = ((&entry.second * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
            let spread = ((&entry.second / bias2)?.sqrt()? + EPSILON)?;
            entry.variable.set(&(value - ((&entry.first / spread)? * (rate / bias1))?)?)?;
        }
        Ok(())
    }

    /// Steps taken.
    pub(super) const fn steps(&self) -> i32 {
        self.steps
    }

    /// Variables (`kind` "value") and moments ("first", "second") by name.
    pub(super) fn state(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        self.entries.iter().flat_map(|Entry { name, variable, first, second }| {
            [
                (format!("value/{name}"), variable.detach()),
                (format!("first/{name}"), first.clone()),
                (format!("second/{name}"), second.clone()),
            ]
        })
    }

    /// Takes up a [`Adam::state`] after `steps` steps; fails if a tensor is missing or misshapen.
    pub(super) fn restore(&mut self, steps: i32, get: impl Fn(&str) -> Result<Tensor>) -> Result<()> {
        for entry in &mut self.entries {
            let tensor = |kind: &str| get(&format!("{kind}/{}", entry.name))?.to_device(entry.variable.device());
            let (value, first, second) = (tensor("value")?, tensor("first")?, tensor("second")?);
            entry.variable.set(&value)?;
            (entry.first, entry.second) = (first, second);
        }
        self.steps = steps;
        Ok(())
    }
}

/// The weighted sum of the parts' gradients, in their order, so that it is the same however many threads made them.
fn mean(parts: &[(GradStore, f64)], variable: &Var) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for (gradients, weight) in parts {
        let Some(gradient) = gradients.get(variable) else { continue };
        let share = (gradient * *weight)?;
        sum = Some(match sum {
            None => share,
            Some(sum) => (sum + share)?,
        });
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Against the update rule written out in plain numbers.
    #[test]
    fn steps_are_those_of_the_rule() {
        let variable = Var::new(&[2.0_f32, -1.0], &Device::Cpu).unwrap();
        let mut adam = Adam::new(vec![("x".to_owned(), variable.clone())], 0.1).unwrap();
        let mut expected = [2.0_f64, -1.0];
        let (mut first, mut second) = ([0.0; 2], [0.0; 2]);
        for step in 1..=3 {
            let loss = variable.sqr().unwrap().sum_all().unwrap();
            adam.step(&[(loss.backward().unwrap(), 1.0)], 0.01).unwrap();
            for i in 0..2 {
                let gradient = 2.0 * expected[i] + 0.1 * expected[i];
                first[i] = 0.9 * first[i] + 0.1 * gradient;
                second[i] = 0.999 * second[i] + 0.001 * gradient * gradient;
                let (m, v) = (first[i] / (1.0 - 0.9_f64.powi(step)), second[i] / (1.0 - 0.999_f64.powi(step)));
                expected[i] -= 0.01 * m / (v.sqrt() + 1e-8);
            }
        }
        let found = variable.to_vec1::<f32>().unwrap();
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }
}
