from support.resuming_data import data, in_data

__all__ = ['data', 'in_data']
