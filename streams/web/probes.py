"""What machines ask about this process: is it alive, is it ready."""

from fastapi import APIRouter, Response

from streams.web.parts import Use

router = APIRouter(tags=["operation"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """This process runs and answers; says nothing about anybody else."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(use: Use, response: Response) -> dict[str, object]:
    """Every dependency by name with its latency; 503 while a needed one is down, `degraded` while only neighbours are."""
    readiness = await use.health.readiness()
    response.status_code = 200 if readiness.ready else 503
    return readiness.shown()
