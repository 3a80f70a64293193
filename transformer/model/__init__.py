"""The delay transformer: network, Lightning module and losses."""
