# SPDX-License-Identifier: Apache-2.0
"""Headings and sentences in English and Korean. Keys, flags, JSON and the words of torch stay English in both."""

from __future__ import annotations

LANGUAGES = ("en", "ko")

ENGLISH = {
    "legend": "MACs: multiply-adds without bias, on input positions where transposed. ×std: to standard of the same "
    "shape. RF: receptive field. F/B: FLOP per byte.",
    "balance means": "work with more than this is bound by compute, with less by memory",
    "families end": "One with its cost: omniconv explain NAME IN OUT SIZE. All of them: omniconv compare IN OUT SIZE.",
    "legend measured": "Bound: the machine's roofline, step by step. Time: median, ± half the interquartile range. "
    "≈: intervals overlap, not ranked.",
    "legend bench": "Time: median, ± half the interquartile range. × a peer: how many times faster, within each "
    "round; –: below. Bound: the machine's roofline over the whole problem.",
    "fastest torch": "the fastest of torch",
    "fastest of all": "at least as fast as the fastest peer, up to the spread",
    "sampling": "of sampling",
    "fewer": "{0} has {1} fewer MACs than standard {2}",
    "exceeded": "no bound, because the machine was busier while it was measured",
    "no faster": "but is no faster",
    "faster": "but is only {0} faster",
    "slower": "but is {0} slower",
    "memory-bound": "memory bounds its {0}.",
    "small": "at this size the call costs more than the work.",
    "below bound": "it reaches {0} of the machine's bound, so kernel {1!r} is the limit, not the arithmetic.",
    "enlarged": "enlarged",
}

KOREAN = {
    "formula": "수식",
    "source": "출처",
    "letters": "기호",
    "bytes": "바이트",
    "FLOP/byte": "FLOP/바이트",
    "output": "출력",
    "receptive field": "수용 영역",
    "counted apart": "따로 센 것",
    "note": "주의",
    "kernel": "커널",
    "proof": "증명",
    "problem": "문제",
    "devices": "장치 목록",
    "kernels": "커널",
    "missing extras": "없는 추가 패키지",
    "none": "없음",
    "not installed": "설치되지 않음",
    "bandwidth": "대역폭",
    "at": "@",
    "balance": "균형점",
    "balance means": "이보다 크면 연산에, 작으면 메모리에 묶인다",
    "is": "뜻",
    "equals": "같은 것",
    "also called": "다른 이름",
    "layers": "계층",
    "families end": "하나의 비용: omniconv explain 이름 IN OUT SIZE. 모두: omniconv compare IN OUT SIZE.",
    "position": "위치",
    "machine": "장치",
    "channels": "채널",
    "batch": "배치",
    "enlarged": "확대",
    "threads": "스레드",
    "peak": "최대",
    "noise": "잡음",
    "family": "합성곱",
    "params": "매개변수",
    "×std": "×표준",
    "RF": "수용 영역",
    "bound": "하한",
    "by": "제한",
    "time": "시간",
    "of bound": "도달률",
    "wrong": "오류",
    "read": "해석",
    "legend": "MACs: 곱셈-덧셈 수(전치 합성곱은 입력 위치 기준, 편향 제외). ×표준: 같은 모양의 표준 합성곱 대비. "
    "F/B: 바이트당 FLOP.",
    "legend measured": "하한: 장치의 루프라인, 단계별. 시간: 중앙값, ± 사분위 범위의 절반. "
    "≈: 구간이 겹쳐 순위를 매기지 않음.",
    "legend bench": "시간: 중앙값, ± 사분위 범위의 절반. × 상대: 같은 회차에서 그보다 몇 배 빠른지. –: 아래 참조. "
    "하한: 문제 전체에 대한 장치의 루프라인.",
    "fastest torch": "torch 가운데 가장 빠른 것",
    "fastest of all": "가장 빠른 상대 이상(편차 안에서)",
    "least": "최저",
    "peers": "비교 상대",
    "sampling": "표본 추출",
    "exponentials": "지수 계산",
    "fewer": "{0}: MACs는 표준보다 {1} 적지만 {2}",
    "exceeded": "장치를 잴 때 다른 일이 있었으므로 하한이 아님",
    "no faster": "빠르지 않다",
    "faster": "{0}만 빠르다",
    "slower": "{0} 느리다",
    "memory-bound": "{0} 단계가 메모리에 묶인다.",
    "small": "이 크기에서는 연산보다 호출이 더 비싸다.",
    "below bound": "장치가 허용하는 속도의 {0}에 그친다. 연산량이 아니라 커널 {1!r}이 한계다.",
}


def say(key: str, lang: str = "en") -> str:
    """The words for ``key``; English where the other language has none, and the key where English needs no more."""
    words = KOREAN if lang == "ko" else {}
    return words.get(key) or ENGLISH.get(key) or key
