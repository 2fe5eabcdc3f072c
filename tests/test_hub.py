"""What the Hub answers, in words."""

from scl_hf import hub

TOKEN = "hf_Secret"


def test_a_reason_holds_no_token_and_no_signature(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    error = ConnectionError(f"Illegal header b'Bearer {TOKEN}' for 'https://hub/lfs?X-Signature=abc' and hf_Given")
    assert (
        hub.reason_of(error, "hf_Given")
        == "the Hub cannot be reached (Illegal header b'Bearer …' for 'https://hub/lfs and …)"
    )
