"""Who uses a workspace and what they may do: accounts, roles, invitations, logins, and the audit log."""
