"""Use cases over the projects of a workspace: what the studio's pages show and do, without a word of HTML."""
