//! Workers that are programs in any language.

use super::Pipeline;
use super::workers::{Factory, Workers};
use crate::config::{Run, Worker};
use crate::control::launch::Task;
use crate::flow::emitter::Emitter;
use crate::flow::job::JobError;
use serde::de::DeserializeOwned;
use std::sync::Arc;

impl Pipeline {
    /// A kind of worker that asks a program for each job; see [`Workers::coprocess`].
    pub fn coprocess<T, A>(
        self,
        name: impl Into<String>,
        command: impl IntoIterator<Item = A>,
    ) -> Workers<T>
    where
        T: DeserializeOwned + 'static,
        A: Into<String>,
    {
        Workers::of(self).coprocess(name, command)
    }
}

impl<T: 'static> Workers<T> {
    /// A kind of worker that asks a program, in any language, for each job. Each thread starts it
    /// once, directly and never through a shell, and keeps it.
    ///
    /// The program reads a line from its standard input for each job, an object of JSON such as
    /// `{"job":"example.org","seq":17,"attempt":1}`, and answers it with one line of JSON on its
    /// standard output, which is read as a `T` and emitted. What it writes to standard error goes
    /// to the log. An answer may have 64 KiB, see [`Workers::max_output`].
    ///
    /// An answer that is no `T` fails its job. So does an object with the key `procsig_error`, with
    /// that text; with `"retry": false` beside it for good. So does one that takes longer than
    /// [`Workers::timeout`] says, and is replaced then. If the program ends with a job in hand,
    /// the job is tried again in a new one, three times in all.
    ///
    /// ```no_run
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Letters { letters: u64 }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     procsig::Pipeline::new("letters")
    ///         .jobs(procsig::source::lines("words.txt"))
    ///         .coprocess::<Letters, _>("letters", ["python3", "worker.py"])
    ///         .processes(2)
    ///         .threads(4)
    ///         .timeout(std::time::Duration::from_secs(10))
    ///         .sink(procsig::sink::json_lines("letters.jsonl"))
    ///         .run()
    ///         .into()
    /// }
    /// ```
    pub fn coprocess<A>(
        mut self,
        name: impl Into<String>,
        command: impl IntoIterator<Item = A>,
    ) -> Workers<T>
    where
        T: DeserializeOwned,
        A: Into<String>,
    {
        let factory: Factory<T> = Box::new(|encode| {
            Task::Coprocess(Some(Arc::new(move |answer, staged, record_max| {
                let record: T = serde_json::from_str(answer).map_err(|error| {
                    JobError::new(format_args!("the coprocess's answer is no record: {error}"))
                })?;
                Emitter::of_job(&encode, staged, record_max).emit(&record)
            })))
        });
        let command = command.into_iter().map(Into::into).collect();
        self.kinds.push((Worker::new(name, Run::Coprocess(command)), factory));
        self
    }

    /// Bytes of the longest answer of the coprocesses declared last; 64 KiB by default.
    pub fn max_output(self, bytes: u64) -> Workers<T> {
        self.change(|worker| worker.max_output = bytes)
    }

    /// Adds a variable to the environment of the coprocesses declared last.
    pub fn env(self, name: impl Into<String>, value: impl Into<String>) -> Workers<T> {
        self.change(|worker| {
            worker.env.insert(name.into(), value.into());
        })
    }
}
