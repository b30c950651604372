"""Twilio's error answers: a code, a text, a link and the HTTP status."""

from __future__ import annotations

from typing import Any, Final

_PROBLEMS: Final = {
    20001: (400, "Invalid parameter"),
    20003: (401, "Authenticate"),
    20004: (405, "Method not allowed"),
    20404: (404, "The requested resource was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "An internal server error has occurred"),
    20503: (503, "Service unavailable"),
    21201: (400, "No 'To' number is specified"),
    21205: (400, "Url is not a valid URL"),
    21210: (400, "'From' phone number not verified"),
    21211: (400, "Invalid 'To' Phone Number"),
    21212: (400, "Invalid 'From' Phone Number"),
    21213: (400, "No 'From' number is specified"),
    21214: (400, "'To' phone number cannot be reached"),
    21215: (400, "Account not authorized to call this number"),
    21216: (400, "Account not allowed to call this number"),
    21217: (400, "Phone number does not appear to be valid"),
    21220: (400, "Call is not in the expected state"),
    21609: (400, "Invalid 'StatusCallback' URL"),
}


class Refusal(Exception):
    """A request that is answered with one of Twilio's errors.

    Args:
        code: Twilio's error code.
        detail: What to say beside the code's own text.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.status, text = _PROBLEMS[code]
        self.message = f"{text}: {detail}" if detail else text

    def body(self) -> dict[str, Any]:
        """Give the JSON body, shaped as Twilio's."""
        return {
            "code": self.code,
            "message": self.message,
            "more_info": f"https://www.twilio.com/docs/errors/{self.code}",
            "status": self.status,
        }
