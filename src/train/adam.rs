//! Adam with L2 regularisation in the gradient: what `PyTorch`'s `Adam(weight_decay=..)` does and the papers used.
//!
//! Not `AdamW` (which candle-nn has): there the decay by-passes the moments and acts far more strongly at these settings. The moments are
//! open to a checkpoint, so that a resumed run goes on as if it had never stopped.

use std::cell::RefCell;

use candle_core::{CpuStorage, Device, Error, InplaceOp1, Layout, Result, Tensor, Var, backprop::GradStore};

use crate::model::read;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The state of one run: variables with their two moments.
#[derive(Debug)]
pub struct Adam {
    entries: Vec<Entry>,
    steps: i32,
    weight_decay: f64,
    /// The gradient of one variable.
    gradient: Vec<f32>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    variable: Var,
    moments: Moments,
}

/// Averages of the gradient and of its square.
#[derive(Debug)]
enum Moments {
    /// In host memory they are plain numbers: one pass over all of them takes a fraction of the time of a dozen tensor operations.
    Numbers(Vec<f32>, Vec<f32>),
    /// Elsewhere they are where the variable is.
    Tensors(Tensor, Tensor),
}

/// What a step multiplies with.
struct Factors {
    weight_decay: f32,
    /// 1 / (1 - β₂ᵗ)
    second: f32,
    /// rate / (1 - β₁ᵗ)
    rate: f32,
}

impl Adam {
    /// A run that begins; `weight_decay` is that of each step.
    ///
    /// Fails when the variables' device does.
    pub fn new(variables: Vec<(String, Var)>, weight_decay: f64) -> Result<Self> {
        let entry = |(name, variable): (String, Var)| {
            let moments = Moments::of(&variable, &variable.zeros_like()?, &variable.zeros_like()?)?;
            Ok(Entry { name, variable, moments })
        };
        let entries = variables.into_iter().map(entry).collect::<Result<_>>()?;
        Ok(Adam { entries, steps: 0, weight_decay, gradient: Vec::new() })
    }

    /// One step against the weighted mean of gradients, one for each part of a batch.
    #[expect(clippy::cast_possible_truncation, reason = "f32 is the weights' precision")]
    pub fn step(&mut self, parts: &[(GradStore, f64)], rate: f64) -> Result<()> {
        self.steps += 1;
        let (bias1, bias2) = (1.0 - BETA1.powi(self.steps), 1.0 - BETA2.powi(self.steps));
        let factors = Factors {
            weight_decay: self.weight_decay as f32,
            second: (1.0 / bias2) as f32,
            rate: (rate / bias1) as f32,
        };
        for entry in &mut self.entries {
            match &mut entry.moments {
                Moments::Numbers(first, second) => {
                    if mean(parts, &entry.variable, &mut self.gradient)? {
                        let moments = RefCell::new((first.as_mut_slice(), second.as_mut_slice()));
                        entry.variable.inplace_op1(&Update { moments, gradient: &self.gradient, factors: &factors })?;
                    }
                }
                Moments::Tensors(first, second) => {
                    if let Some(gradient) = mean_on_device(parts, &entry.variable)? {
                        factors.update(&entry.variable, (first, second), &gradient)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Steps taken.
    pub(super) const fn steps(&self) -> i32 {
        self.steps
    }

    /// Variables (`kind` "value") and moments ("first", "second") by name.
    pub(super) fn state(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        self.entries.iter().flat_map(|Entry { name, variable, moments }| {
            let (first, second) = moments.tensors(variable);
            [
                (format!("value/{name}"), variable.detach()),
                (format!("first/{name}"), first),
                (format!("second/{name}"), second),
            ]
        })
    }

    /// Takes up a [`Adam::state`] after `steps` steps; fails if a tensor is missing or misshapen.
    pub(super) fn restore(&mut self, steps: i32, get: impl Fn(&str) -> Result<Tensor>) -> Result<()> {
        for entry in &mut self.entries {
            let tensor = |kind: &str| get(&format!("{kind}/{}", entry.name))?.to_device(entry.variable.device());
            let (value, first, second) = (tensor("value")?, tensor("first")?, tensor("second")?);
            entry.variable.set(&value)?;
            entry.moments = Moments::of(&entry.variable, &first, &second)?;
        }
        self.steps = steps;
        Ok(())
    }
}

impl Moments {
    /// Those of `variable`, in the form that fits where it is.
    fn of(variable: &Var, first: &Tensor, second: &Tensor) -> Result<Self> {
        Ok(match variable.device() {
            Device::Cpu => Moments::Numbers(values(first)?, values(second)?),
            Device::Cuda(_) | Device::Metal(_) => Moments::Tensors(first.clone(), second.clone()),
        })
    }

    fn tensors(&self, variable: &Var) -> (Tensor, Tensor) {
        let tensor = |values: &Vec<f32>| {
            Tensor::from_slice(values, variable.shape(), &Device::Cpu).expect("a moment for each value")
        };
        match self {
            Moments::Numbers(first, second) => (tensor(first), tensor(second)),
            Moments::Tensors(first, second) => (first.clone(), second.clone()),
        }
    }
}

impl Factors {
    /// The step of one variable on its device.
    fn update(&self, variable: &Var, (first, second): (&mut Tensor, &mut Tensor), gradient: &Tensor) -> Result<()> {
        let value = variable.detach();
        let gradient = (gradient + (&value * f64::from(self.weight_decay))?)?;
        *first = ((&*first * BETA1)? + (&gradient * (1.0 - BETA1))?)?;
        *second = ((&*second * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
        let spread = ((&*second * f64::from(self.second))?.sqrt()? + EPSILON)?;
        variable.set(&(value - ((&*first / spread)? * f64::from(self.rate))?)?)
    }
}

/// The step of one variable, where its values lie.
struct Update<'a> {
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
    gradient: &'a [f32],
    factors: &'a Factors,
}

impl InplaceOp1 for Update<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    #[expect(clippy::cast_possible_truncation, reason = "f32 is the weights' precision")]
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            return Err(Error::Msg("what learns are f32 values, one after the other".to_owned()));
        };
        let (factors, mut moments) = (self.factors, self.moments.borrow_mut());
        let (first, second) = &mut *moments;
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((value, gradient), (first, second)) in values[start..end].iter_mut().zip(self.gradient).zip(moments) {
            let gradient = gradient + *value * factors.weight_decay;
            *first = *first * BETA1 as f32 + gradient * (1.0 - BETA1) as f32;
            *second = *second * BETA2 as f32 + gradient * gradient * (1.0 - BETA2) as f32;
            let spread = (*second * factors.second).sqrt() + EPSILON as f32;
            *value -= *first / spread * factors.rate;
        }
        Ok(())
    }
}

/// A tensor's values in host memory.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// The weighted sum of the parts' gradients, in their order, so that it is the same however many threads made them. Tells whether there is one.
#[expect(clippy::cast_possible_truncation, reason = "f32 is the gradients' precision")]
fn mean(parts: &[(GradStore, f64)], variable: &Var, sum: &mut Vec<f32>) -> Result<bool> {
    sum.clear();
    for (gradients, weight) in parts {
        let Some(gradient) = gradients.get(variable) else { continue };
        let weight = *weight as f32;
        read(gradient, |gradient| {
            if sum.is_empty() {
                sum.extend(gradient.iter().map(|value| value * weight));
            } else {
                sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value * weight);
            }
        })?;
    }
    Ok(!sum.is_empty())
}

/// The same, where the variable is.
fn mean_on_device(parts: &[(GradStore, f64)], variable: &Var) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for (gradients, weight) in parts {
        let Some(gradient) = gradients.get(variable) else { continue };
        let weighted = (gradient.detach() * *weight)?;
        sum = Some(match sum {
            None => weighted,
            Some(sum) => (sum + weighted)?,
        });
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the update rule written out in plain numbers.
    #[test]
    fn steps_are_those_of_the_rule() {
        let variable = || Var::new(&[2.0_f32, -1.0], &Device::Cpu).unwrap();
        let adam = |variable: &Var| Adam::new(vec![("x".to_owned(), variable.clone())], 0.1).unwrap();
        let (numbers, tensors) = (variable(), variable());
        let (mut of_numbers, mut of_tensors) = (adam(&numbers), adam(&tensors));
        // What a GPU does.
        let zeros = numbers.zeros_like().unwrap();
        of_tensors.entries[0].moments = Moments::Tensors(zeros.clone(), zeros);
        let mut expected = [2.0_f64, -1.0];
        let (mut first, mut second) = ([0.0; 2], [0.0; 2]);
        for step in 1..=3 {
            for (variable, adam) in [(&numbers, &mut of_numbers), (&tensors, &mut of_tensors)] {
                let gradients = || variable.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                adam.step(&[(gradients(), 0.75), (gradients(), 0.25)], 0.01).unwrap();
            }
            for i in 0..2 {
                let gradient = 2.0 * expected[i] + 0.1 * expected[i];
                first[i] = 0.9 * first[i] + 0.1 * gradient;
                second[i] = 0.999 * second[i] + 0.001 * gradient * gradient;
                let (m, v) = (first[i] / (1.0 - 0.9_f64.powi(step)), second[i] / (1.0 - 0.999_f64.powi(step)));
                expected[i] -= 0.01 * m / (v.sqrt() + 1e-8);
            }
        }
        for variable in [&numbers, &tensors] {
            let found = variable.to_vec1::<f32>().unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} is not {expected}");
            }
        }
        let states = [&of_numbers, &of_tensors]
            .map(|adam| adam.state().map(|(name, tensor)| (name, values(&tensor).unwrap())).collect::<Vec<_>>());
        for ((name, found), (_, expected)) in states[0].iter().zip(&states[1]) {
            assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-5), "{name}");
        }
    }
}
