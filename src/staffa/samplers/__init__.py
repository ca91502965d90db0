"""Built-in samplers, schedules, resampling, fitness functions: plug-ins like anyone's."""
