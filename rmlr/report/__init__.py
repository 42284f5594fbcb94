"""What people look at: tables, verdicts, pages, charts, and pictures with boxes."""
