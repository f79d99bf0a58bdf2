//! Which models of a repository the settings select.

use super::ModelSettings;
use crate::repository::{self, Location, RepositoryError, Wanted};

impl ModelSettings {
    /// The same settings; a repository that is the folder of a single model counts as this model of
    /// its parent folder.
    #[must_use]
    pub fn of_folder(mut self) -> Self {
        if let Location::Folder(folder) = &self.model_repository
            && let Some((repository, model)) = repository::of_model(folder)
        {
            self.model_repository = Location::Folder(repository);
            self.models = vec![Wanted { name: model, version: None, digest: None }];
        }
        self
    }

    /// The same settings for one of the selected models.
    ///
    /// # Errors
    ///
    /// The model is not selected.
    pub fn only(mut self, model: &str) -> Result<Self, RepositoryError> {
        if self.models.is_empty() {
            self.models = vec![Wanted { name: model.to_owned(), version: None, digest: None }];
            return Ok(self);
        }
        self.models.retain(|wanted| wanted.name == model);
        if self.models.is_empty() {
            return Err(RepositoryError::NotSelected { model: model.to_owned() });
        }
        Ok(self)
    }

    /// The names of the selected models of the folder, sorted.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn available(&self) -> Result<Vec<String>, RepositoryError> {
        let is_selected =
            |name: &String| self.models.is_empty() || self.models.iter().any(|w| w.name == *name);
        let mut names = match &self.model_repository {
            Location::Folder(folder) => repository::model_names(folder)?,
            Location::Store(_) => self.models.iter().map(|wanted| wanted.name.clone()).collect(),
        };
        names.retain(is_selected);
        names.sort();
        names.dedup();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::WorkerSettings;

    fn settings(folder: &std::path::Path, flags: &[&str]) -> ModelSettings {
        let folder = folder.to_str().unwrap();
        let program = ["batchfleet-worker", "--model-repository", folder];
        WorkerSettings::try_parse_from(program.iter().chain(flags)).unwrap().models
    }

    #[test]
    fn models_are_selected_by_name() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b", "a", ".hidden"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let all = settings(root.path(), &[]);
        assert_eq!(all.available().unwrap(), ["a", "b"]);
        let wanted = |name: &str| name.parse::<Wanted>().unwrap();
        assert_eq!(all.only("a").unwrap().models, [wanted("a")]);
        let some = settings(root.path(), &["--model", "b:2,b:3,c"]);
        assert_eq!(some.available().unwrap(), ["b"]);
        assert_eq!(some.clone().only("b").unwrap().models, [wanted("b:2"), wanted("b:3")]);
        assert!(some.only("a").unwrap_err().to_string().starts_with("model \"a\" is not"));
    }
}
