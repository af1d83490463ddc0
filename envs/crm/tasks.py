"""The CRM's tasks: every template of levels L0 to L3, collected. How each is made stands in the file of its level."""

from crm_level01 import (
    amount_by_name,
    assign_deal,
    call_by_name,
    log_one_call,
    note_by_name,
    note_on_record,
    owner_by_name,
    phone_by_name,
    set_amount,
    set_email,
    set_phone,
    set_stage,
    set_title,
    stage_by_name,
    title_by_name,
)  # fmt: skip

__all__ = [
    "amount_by_name", "assign_deal", "call_by_name", "log_one_call", "note_by_name", "note_on_record", "owner_by_name",
    "phone_by_name", "set_amount", "set_email", "set_phone", "set_stage", "set_title", "stage_by_name", "title_by_name",
]  # fmt: skip
