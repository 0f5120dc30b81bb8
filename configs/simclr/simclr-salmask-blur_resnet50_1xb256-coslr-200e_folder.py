_base_ = './simclr_resnet50_1xb256-coslr-200e_folder.py'

# The localizer needs no weights, so nothing is downloaded. The paper's is the one of the _in100
# configs: --cfg-options "model.data_preprocessor.masker.localizer=..." takes any other.
model = dict(
    data_preprocessor=dict(
        masker=dict(
            type='mmsalmask.SaliencyMasker',
            strategy=dict(type='mmsalmask.StrongBlur'),
            localizer=dict(type='mmsalmask.BoundaryPriorSaliency'))))
