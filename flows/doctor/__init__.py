"""What `distillery doctor` looks at: packages, machine, devices and services, each check safe from what is broken."""
