"""Files that outlive a process: run folders, resumable work directories, durable writes."""
