"""The data room: from files that people have to a prepared data set, with nothing lost without a reason."""
